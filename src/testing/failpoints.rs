//! Panics on order, for the tests that show what they cost. Only with the feature `embedded`, and in no documentation.
#![allow(clippy::panic)]

use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture};

use crate::{
    discovery::{push_receiver::PushReceiver, subscriber::Subscriber},
    error::{Error, Operation},
    registry::{heartbeat::Heartbeat, Registry},
};

/// Which of our actors is to panic; all of that kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorKind {
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
pub enum PanicSite {
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
pub struct TriggerPanic {
    /// Who.
    pub actor: ActorKind,
    /// Where.
    pub site: PanicSite,
}

/// The order, as it reaches its actor.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct PanicOrder(pub(crate) PanicSite);

impl PanicOrder {
    fn happen<A: Actor<Context = Context<A>>>(self, actor: &A, ctx: &mut Context<A>) {
        match self.0 {
            PanicSite::Handler => panic!("staged in a handler"),
            PanicSite::Timer => drop(ctx.run_later(Duration::ZERO, |_, _| panic!("staged in a timer"))),
            PanicSite::Future => drop(ctx.spawn(async { panic!("staged in a future") }.into_actor(actor))),
        }
    }
}

impl Handler<PanicOrder> for Heartbeat {
    type Result = ();

    fn handle(&mut self, order: PanicOrder, ctx: &mut Context<Self>) {
        order.happen(self, ctx);
    }
}

impl Handler<PanicOrder> for Subscriber {
    type Result = ();

    fn handle(&mut self, order: PanicOrder, ctx: &mut Context<Self>) {
        order.happen(self, ctx);
    }
}

impl Handler<PanicOrder> for PushReceiver {
    type Result = ();

    fn handle(&mut self, order: PanicOrder, ctx: &mut Context<Self>) {
        order.happen(self, ctx);
    }
}

impl Handler<TriggerPanic> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, order: TriggerPanic, ctx: &mut Context<Self>) -> Self::Result {
        let registry_itself = order.actor == ActorKind::Registry;
        if registry_itself && order.site == PanicSite::Timer {
            PanicOrder(order.site).happen(self, ctx);
        }
        self.dispatch(Operation::Status, move |shared| {
            if registry_itself && order.site == PanicSite::Handler {
                panic!("staged in a handler");
            }
            async move {
                if registry_itself && order.site == PanicSite::Future {
                    panic!("staged in a future");
                }
                let panic = PanicOrder(order.site);
                match order.actor {
                    ActorKind::Registry => {}
                    ActorKind::Heartbeats => shared.desired.heartbeats().iter().for_each(|actor| actor.do_send(panic)),
                    ActorKind::Subscribers => {
                        shared.subscriptions.all().iter().for_each(|(_, actor)| actor.do_send(panic));
                    }
                    ActorKind::PushReceiver => shared.pushes.receiver().iter().for_each(|actor| actor.do_send(panic)),
                }
                Ok(())
            }
        })
    }
}
