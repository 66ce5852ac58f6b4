//! Triggers panics in the actors, for the tests of what a panic costs.
#![allow(clippy::panic)]

use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture, WeakAddr, WrapFuture};

use crate::{
    discovery::{push_receiver::PushReceiver, subscriber::Subscriber},
    error::{Error, Operation},
    registry::{heartbeat::Heartbeat, Registry},
};

/// The kind of actor that panics. All actors of the kind do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorKind {
    /// The Registry.
    Registry,
    /// All Heartbeats.
    Heartbeats,
    /// All Subscribers.
    Subscribers,
    /// The PushReceiver.
    PushReceiver,
}

/// The place of the panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PanicSite {
    /// In a handler.
    Handler,
    /// In a timer of the actor's context.
    Timer,
    /// In a future of the actor's context; for the Registry, in the future of an answer.
    Future,
}

/// Triggers a panic.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct TriggerPanic {
    /// Which actors panic.
    pub actor: ActorKind,
    /// Where they panic.
    pub site: PanicSite,
}

/// Makes the receiving actor panic.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct Panic(PanicSite);

impl Panic {
    fn trigger<A: Actor<Context = Context<A>>>(self, actor: &A, ctx: &mut Context<A>) {
        match self.0 {
            PanicSite::Handler => panic!("triggered in a handler"),
            PanicSite::Timer => drop(ctx.run_later(Duration::ZERO, |_, _| panic!("triggered in a timer"))),
            PanicSite::Future => drop(ctx.spawn(async { panic!("triggered in a future") }.into_actor(actor))),
        }
    }
}

impl Handler<Panic> for Heartbeat {
    type Result = ();

    fn handle(&mut self, panic: Panic, ctx: &mut Context<Self>) {
        panic.trigger(self, ctx);
    }
}

impl Handler<Panic> for Subscriber {
    type Result = ();

    fn handle(&mut self, panic: Panic, ctx: &mut Context<Self>) {
        panic.trigger(self, ctx);
    }
}

impl Handler<Panic> for PushReceiver {
    type Result = ();

    fn handle(&mut self, panic: Panic, ctx: &mut Context<Self>) {
        panic.trigger(self, ctx);
    }
}

impl Handler<TriggerPanic> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, TriggerPanic { actor, site }: TriggerPanic, ctx: &mut Context<Self>) -> Self::Result {
        let in_registry = actor == ActorKind::Registry;
        if in_registry && site == PanicSite::Timer {
            Panic(site).trigger(self, ctx);
        }
        self.dispatch(Operation::Status, move |shared| {
            if in_registry && site == PanicSite::Handler {
                panic!("triggered in a handler");
            }
            async move {
                if in_registry && site == PanicSite::Future {
                    panic!("triggered in a future");
                }
                let panic = Panic(site);
                match actor {
                    ActorKind::Registry => {}
                    ActorKind::Heartbeats => {
                        let heartbeats = shared.desired.heartbeats();
                        heartbeats.iter().filter_map(WeakAddr::upgrade).for_each(|actor| actor.do_send(panic));
                    }
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
