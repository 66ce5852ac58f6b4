//! The same requests by plain awc in the shape of this crate, and nothing more: what the shape costs at least.
//!
//! An actor on its own thread owns the client and takes a message for each operation. Each registered instance has an
//! actor with a timer, which asks the first actor to send its beats. There are no parameters to check, no order of
//! operations, no retries, no health of servers, no published states and no logins.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};

use actix::{
    fut::ActorFutureExt as _, Actor, ActorContext as _, Addr, Arbiter, AsyncContext as _, Context, Handler, Message,
    ResponseFuture, WeakAddr, WrapFuture as _,
};
use awc::Client;
use futures_util::{stream, StreamExt as _};

use crate::{
    measure::{memory, Figures, Meter},
    ours::{both, deregistered, steady_beats},
    raw::{deregister_all, exchange, register_url, url},
    stub::BEAT_INTERVAL,
    Options, Target, IN_FLIGHT,
};

/// The points of time at which beats are sent, as in the measured client.
const GRID: Duration = Duration::from_millis(500);

struct Owner {
    client: Client,
    address: std::net::SocketAddr,
    options: Options,
    began: Instant,
    beating: Rc<RefCell<HashMap<usize, Addr<Beating>>>>,
    is_closing: Rc<Cell<bool>>,
}

#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
enum Operation {
    Register(usize),
    Deregister(usize),
    Beat(usize),
}

impl Actor for Owner {
    type Context = Context<Self>;
}

impl Handler<Operation> for Owner {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, operation: Operation, ctx: &mut Context<Self>) -> Self::Result {
        let (client, beating) = (&self.client, self.beating.clone());
        let url = |what, number| url(self.address, what, number, &self.options);
        match operation {
            Operation::Register(number) => {
                let request = client.post(register_url(self.address, number, &self.options));
                let (owner, began, is_closing) = (ctx.address().downgrade(), self.began, self.is_closing.clone());
                Box::pin(async move {
                    exchange(request).await;
                    beating.borrow_mut().insert(number, Beating { number, owner, began, is_closing }.start());
                })
            }
            Operation::Deregister(number) => {
                let request = client.delete(url("", number));
                Box::pin(async move {
                    if let Some(beating) = beating.borrow_mut().remove(&number) {
                        beating.do_send(Stop);
                    }
                    exchange(request).await;
                })
            }
            Operation::Beat(number) => Box::pin(exchange(client.put(url("/beat", number)))),
        }
    }
}

/// Deregisters all instances. Their actors live on, but send no beats.
#[derive(Message)]
#[rtype(result = "()")]
struct DeregisterAll;

impl Handler<DeregisterAll> for Owner {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: DeregisterAll, _: &mut Context<Self>) -> Self::Result {
        self.is_closing.set(true);
        let (client, address, options) = (self.client.clone(), self.address, self.options.clone());
        Box::pin(async move { deregister_all(&client, address, &options).await })
    }
}

struct Beating {
    number: usize,
    owner: WeakAddr<Owner>,
    began: Instant,
    is_closing: Rc<Cell<bool>>,
}

impl Beating {
    /// Beats are spread over the points of the grid by the number of the instance.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let points = (BEAT_INTERVAL.as_millis() / GRID.as_millis()) as usize;
        let phase = GRID * (self.number % points) as u32;
        let intervals =
            (self.began.elapsed().saturating_sub(phase).as_secs_f64() / BEAT_INTERVAL.as_secs_f64()).floor();
        let due = phase + BEAT_INTERVAL.mul_f64(intervals + 1.0);
        ctx.run_later(due.saturating_sub(self.began.elapsed()), Self::beat);
    }

    fn beat(&mut self, ctx: &mut Context<Self>) {
        if self.is_closing.get() {
            return self.arm(ctx);
        }
        let Some(owner) = self.owner.upgrade() else { return ctx.stop() };
        let sent = owner.send(Operation::Beat(self.number)).into_actor(self);
        ctx.spawn(sent.map(|_, beating, ctx| beating.arm(ctx)));
    }
}

impl Actor for Beating {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.arm(ctx);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Stop;

impl Handler<Stop> for Beating {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

fn start(options: &Options, target: &Target) -> Addr<Owner> {
    let (address, options) = (target.address, options.clone());
    Owner::start_in_arbiter(&Arbiter::new().handle(), move |_| Owner {
        client: Client::default(),
        address,
        options,
        began: Instant::now(),
        beating: Rc::default(),
        is_closing: Rc::default(),
    })
}

async fn send_all(owner: &Addr<Owner>, options: &Options, operation: fn(usize) -> Operation) {
    let one = |number| owner.send(operation(number));
    let answers = stream::iter(0..options.instances).map(one).buffer_unordered(IN_FLIGHT);
    answers.for_each(|answer| async move { answer.expect("it lives") }).await;
}

pub(crate) async fn register(options: &Options, target: &Target) -> Figures {
    let owner = start(options, target);
    let registering = Meter::start();
    send_all(&owner, options, Operation::Register).await;
    let registering = registering.read();
    let deregistering = Meter::start();
    send_all(&owner, options, Operation::Deregister).await;
    both(options.instances, registering, deregistering.read())
}

pub(crate) async fn beats(options: &Options, target: &Target) -> Figures {
    let owner = start(options, target);
    let (before, _) = memory();
    send_all(&owner, options, Operation::Register).await;
    steady_beats(options, target, before).await
}

pub(crate) async fn shutdown(options: &Options, target: &Target) -> Figures {
    let owner = start(options, target);
    send_all(&owner, options, Operation::Register).await;
    let meter = Meter::start();
    owner.send(DeregisterAll).await.expect("it lives");
    deregistered(options.instances, meter.read())
}
