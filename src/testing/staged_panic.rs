//! Panics on order, for the tests that show what they cost. Only with the feature `embedded`, and in no documentation.
#![allow(clippy::panic)]

use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture};

use crate::{
    discovery::{push::PushReceiver, subscriber::Subscriber},
    error::{Error, Operation},
    registry::{heartbeat::Heartbeat, Registry},
};

/// Which of our actors is to panic; all of that kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The Registry.
    Registry,
    /// Every Heartbeat.
    Heartbeats,
    /// Every Subscriber.
    Subscribers,
    /// The PushReceiver.
    PushReceiver,
}

/// Where it is to panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a handler.
    Handler,
    /// In a timer of its context.
    Timer,
    /// In a future of its context; of the Registry, in the future of an answer.
    Future,
}

/// Orders a panic.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct StagePanic {
    /// Who.
    pub victim: Victim,
    /// Where.
    pub place: Place,
}

/// The order, as it reaches its victim.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct PanicNow(pub(crate) Place);

impl PanicNow {
    fn happen<A: Actor<Context = Context<A>>>(self, actor: &A, ctx: &mut Context<A>) {
        match self.0 {
            Place::Handler => panic!("staged in a handler"),
            Place::Timer => drop(ctx.run_later(Duration::ZERO, |_, _| panic!("staged in a timer"))),
            Place::Future => drop(ctx.spawn(async { panic!("staged in a future") }.into_actor(actor))),
        }
    }
}

impl Handler<PanicNow> for Heartbeat {
    type Result = ();

    fn handle(&mut self, order: PanicNow, ctx: &mut Context<Self>) {
        order.happen(self, ctx);
    }
}

impl Handler<PanicNow> for Subscriber {
    type Result = ();

    fn handle(&mut self, order: PanicNow, ctx: &mut Context<Self>) {
        order.happen(self, ctx);
    }
}

impl Handler<PanicNow> for PushReceiver {
    type Result = ();

    fn handle(&mut self, order: PanicNow, ctx: &mut Context<Self>) {
        order.happen(self, ctx);
    }
}

impl Handler<StagePanic> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, order: StagePanic, ctx: &mut Context<Self>) -> Self::Result {
        let registry_itself = order.victim == Victim::Registry;
        if registry_itself && order.place == Place::Timer {
            PanicNow(order.place).happen(self, ctx);
        }
        self.answer(Operation::Status, move |desk| {
            if registry_itself && order.place == Place::Handler {
                panic!("staged in a handler");
            }
            async move {
                if registry_itself && order.place == Place::Future {
                    panic!("staged in a future");
                }
                desk.pass_on(order.victim, PanicNow(order.place));
                Ok(())
            }
        })
    }
}
