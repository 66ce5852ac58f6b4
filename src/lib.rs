//! Nacos service registry for actix applications: register, stay alive, find others, be told of changes, go.
//!
//! Everything is a typed message to one [`Registry`] actor. News comes back as messages to the application's own actors,
//! and a [`ServiceView`] answers "which instance do I call?" from any thread without a message. With the feature
//! `embedded` a Nacos server runs inside the process, so this program needs nothing else:
//!
//! ```
//! use std::time::Duration;
//!
//! use actix::prelude::*;
//! use actix_nacos::{embedded::EmbeddedServer, prelude::*};
//!
//! /// An actor of the application that wants to know who serves `orders`.
//! struct Watcher;
//!
//! impl Actor for Watcher {
//!     type Context = Context<Self>;
//! }
//!
//! impl Handler<ServiceChanged> for Watcher {
//!     type Result = ();
//!
//!     fn handle(&mut self, news: ServiceChanged, _: &mut Context<Self>) {
//!         println!("{} has {} instances, {} are new", news.service, news.info.hosts.len(), news.added.len());
//!     }
//! }
//!
//! #[actix::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let nacos = EmbeddedServer::start()?; // a real one: Config::new("192.0.2.1:8848,192.0.2.2:8848")
//!     let registry = Registry::start(Config::new(nacos.server_address()))?;
//!
//!     // Register. A Heartbeat keeps the instance alive from now on.
//!     let orders = RegisterInstance::new("orders", "127.0.0.7", 8080).weight(2.0).metadata("zone", "a");
//!     registry.send(orders).await??;
//!
//!     // List.
//!     let list = registry.send(ListInstances::new("orders").healthy_only()).await??;
//!     assert_eq!(list.hosts[0].metadata["zone"], "a");
//!
//!     // Be told of every change.
//!     registry.send(Subscribe::new("orders", Watcher.start().recipient())).await??;
//!
//!     // Discover: a view that stays current.
//!     let orders = registry.send(Discover::new("orders")).await??;
//!     orders.ready_within(Duration::from_secs(5)).await?;
//!     let instance = orders.select_one().ok_or("nobody serves orders")?;
//!     assert_eq!(instance.authority(), "127.0.0.7:8080");
//!
//!     // Go: deregisters what this process registered, then ends.
//!     let report = registry.send(Shutdown::default()).await??;
//!     assert_eq!(report.deregistered, 1);
//!     Ok(())
//! }
//! ```
//!
//! # Starting
//! [`Registry::start`] runs the Registry on a thread of its own and works anywhere: in a plain thread, under
//! `#[tokio::main]`, `#[actix::main]` or `#[actix_web::main]`. [`Registry::start_here`] runs it on the present arbiter.
//! Both give a plain `Addr<Registry>`, to be cloned and stored like any other.
//!
//! ```
//! # use std::time::Duration;
//! use actix_nacos::{Config, Registry};
//!
//! let config = Config::new("127.0.0.1:8848,127.0.0.1:8849") // or Config::from_env()?
//!     .namespace("staging")
//!     .credentials("orders", "s3cret")
//!     .request_timeout(Duration::from_secs(2));
//! let registry = Registry::start(config)?;
//! # Ok::<(), actix_nacos::Error>(())
//! ```
//!
//! [`Config`] can also be read from a file by serde, and environment variables may override what stands there:
//! [`Config::overridden_by_env`].
//!
//! In a plain thread, without any runtime, [`block_on`] waits for whatever is awaited in these examples.
//!
//! # Registering
//! [`RegisterInstance`] takes what Nacos knows of an instance; each setter's doc names its default. Registering again
//! makes the new values win. The answer is a [`Registration`], which tells in any thread whether the instance is registered.
//! [`ModifyInstance`] changes what is given and leaves the rest as it is;
//! [`DeregisterInstance`] takes the instance out. [`Config::local_ip`] finds the address to register.
//!
//! ```
//! # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
//! # #[actix::main]
//! # async fn main() -> Result<(), Error> {
//! # let nacos = EmbeddedServer::start().unwrap();
//! # let config = Config::new(nacos.server_address());
//! let ip = config.local_ip()?.to_string();
//! let registry = Registry::start(config)?;
//! registry.send(RegisterInstance::new("orders", &ip, 8080).group("SHOP").cluster("EAST")).await??;
//! registry.send(ModifyInstance::new("SHOP@@orders", &ip, 8080).cluster("EAST").weight(0.5)).await??;
//!
//! let instance = registry.send(GetInstance::new("SHOP@@orders", &ip, 8080).cluster("EAST")).await??;
//! assert_eq!(instance.weight, 0.5);
//!
//! registry.send(DeregisterInstance::new("SHOP@@orders", &ip, 8080).cluster("EAST")).await??;
//! # Ok(())
//! # }
//! ```
//!
//! # Being told
//! [`Subscribe`] sends a [`ServiceChanged`] to an actor whenever a service's list changes: the whole list beside what was
//! added, changed (before and now) and removed. [`Unsubscribe`] ends that.
//!
//! ```
//! # use actix::prelude::*;
//! # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
//! struct Balancer {
//!     registry: Addr<Registry>,
//! }
//!
//! impl Actor for Balancer {
//!     type Context = Context<Self>;
//!
//!     fn started(&mut self, ctx: &mut Context<Self>) {
//!         self.registry.do_send(Subscribe::new("orders", ctx.address().recipient()));
//!     }
//! }
//!
//! impl Handler<ServiceChanged> for Balancer {
//!     type Result = ();
//!
//!     fn handle(&mut self, news: ServiceChanged, ctx: &mut Context<Self>) {
//!         for (before, now) in &news.changed {
//!             println!("{} had weight {}, has {}", now.authority(), before.weight, now.weight);
//!         }
//! #       ctx.stop();
//! #       System::current().stop();
//!     }
//! }
//! # let nacos = EmbeddedServer::start().unwrap();
//! # let registry = Registry::start(Config::new(nacos.server_address())).unwrap();
//! # let system = System::new();
//! # let _balancer = system.block_on(async { Balancer { registry }.start() });
//! # system.run().unwrap();
//! ```
//!
//! # Discovering
//! [`Discover`] gives a [`ServiceView`]: reads take nanoseconds, no lock and no allocation, in any thread and under any
//! runtime. [`ServiceView::select_one`] chooses by the weights among the instances that are healthy and enabled.
//!
//! ```
//! # use std::{thread, time::Duration};
//! # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
//! # #[actix::main]
//! # async fn main() -> Result<(), Error> {
//! # let nacos = EmbeddedServer::start().unwrap();
//! # let registry = Registry::start(Config::new(nacos.server_address()))?;
//! # registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)).await??;
//! let orders = registry.send(Discover::new("orders").healthy_only()).await??;
//! orders.ready_within(Duration::from_secs(5)).await?;
//!
//! let in_a_thread = orders.clone();
//! let called = thread::spawn(move || in_a_thread.select_one().map(|instance| instance.authority()));
//! assert_eq!(called.join().unwrap().as_deref(), Some("127.0.0.7:8080"));
//! # Ok(())
//! # }
//! ```
//!
//! # Looking inside
//! [`GetStatus`] tells the state of each server, of the login, of each instance and subscription; it serialises, for a
//! health page. [`WatchConnection`] sends a [`ConnectionChanged`] whenever servers are lost or back,
//! until [`UnwatchConnection`].
//!
//! ```
//! # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
//! # #[actix::main]
//! # async fn main() -> Result<(), Error> {
//! # let nacos = EmbeddedServer::start().unwrap();
//! # let registry = Registry::start(Config::new(nacos.server_address()))?;
//! registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)).await??;
//! let status = registry.send(GetStatus).await??;
//! assert!(status.servers[0].in_use && status.instances[0].registered);
//! println!("{}", serde_json::to_string_pretty(&status).unwrap());
//! # Ok(())
//! # }
//! ```
//!
//! # Going
//! An awaited [`Shutdown`] deregisters first, then ends the Registry; with
//! [`drain_until_noticed`](Shutdown::drain_until_noticed) it serves on as long as callers need to notice.
//! [`ShutdownGuard`] does the same from its `Drop`. In an actix-web application it belongs before the server stops:
//!
//! ```
//! # use actix::prelude::*;
//! # use actix_nacos::prelude::*;
//! # use actix_web::{rt, rt::signal::unix::{signal, SignalKind}, App, HttpServer};
//! # async fn run(registry: Addr<Registry>) -> std::io::Result<()> {
//! // The server's own handling would stop it before anybody knows.
//! let server = HttpServer::new(App::new).bind(("127.0.0.1", 8080))?.disable_signals().run();
//! for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
//!     let (mut signals, registry, server) = (signal(kind)?, registry.clone(), server.handle());
//!     rt::spawn(async move {
//!         signals.recv().await;
//!         // Serves on until callers have noticed. Only then the server stops.
//!         let _ = registry.send(Shutdown::default().drain_until_noticed()).await;
//!         server.stop(true).await;
//!     });
//! }
//! server.await
//! # }
//! ```
//!
//! # Errors
//! Every message is answered with a `Result` of the one [`Error`] type, and a closed mailbox becomes [`Error::Stopped`]:
//! `registry.send(…).await??` works in a function that returns `Result<_, actix_nacos::Error>`. Its variants say which
//! step failed, at which server; [`Error::is_retryable`] says whether the same request may succeed later. Bad input is
//! [`Error::InvalidInput`], naming the field and the rule, before anything is sent.
//!
//! # Testing your application
//! The module `embedded` is a server for whole runs. Code that only reads needs none: [`ServiceView::fixed`] and
//! [`ServiceView::controlled`] make views, [`ServiceChanged::between`] and [`ConnectionChanged::new`] the messages of listeners,
//! [`RegistryStatus::default`] a status.
//!
//! # Behavior
//! - **Who beats, and when.** Each own ephemeral instance has a Heartbeat on the Registry's thread: the first beat comes
//!   within 5.5 s, then one every 5 s or as the server asks. Beats that fall due together are sent together, and instances
//!   registered in one burst are spread over the interval. Persistent instances are checked by the server and do not beat.
//!   A handler that blocks the application's threads costs no beat.
//! - **Order.** Messages for the same instance take effect in the order in which the mailbox took them, awaited or not;
//!   different instances do not wait for each other. A beat under way never brings a deregistered instance back.
//! - **When the server is gone.** Operations go to the next server and are tried again until
//!   [`Config::operation_timeout`] (10 s) has passed, then fail with a retryable error. Registering and the others that
//!   write may so reach a server twice, which is the same as once. What is registered and watched is kept: after a
//!   restart of the server, a change to another one or a broken connection, instances are registered again with the values
//!   wanted now, instead of their next beat. While all servers fail, each is tried at growing intervals of at most 2 s,
//!   however many instances there are.
//! - **What a listener sees first.** The list as it is, once, with `first` set and all of it `added`; a listener that
//!   comes late gets the list that is known, at once. A service nobody is in has an empty first list. Afterwards only
//!   changes, each counted from the list that *this* listener received last. One whose mailbox is full is told later, then
//!   of the newest list; one that has stopped is forgotten.
//! - **How news come.** Servers that push (Nacos 1.x to 3.1) tell of a change within about a second, by UDP. Lists are
//!   polled besides, every 8.5 to 10 s as a rule, which is how news come from the others and through firewalls; a listener
//!   is told each change once, in the server's order.
//! - **Lists through an outage.** A failed poll is no change: listeners hear nothing, views keep serving and say
//!   [`is_stale`](ServiceView::is_stale). After an outage or a change of server, instances that the server has not listed since are
//!   withheld from removal for [`Config::outage_hold`] (15 s): a server that restarted empty fills up within one beat
//!   interval. [`ServiceView::withheld`] names them.
//! - **Panics.** One in a handler, timer or future costs the operation it happened in, answered with
//!   [`Error::Panicked`]; the same address serves on. (`panic = "abort"` is outside this promise.)
//! - **The end.** [`Shutdown`] is final: later messages are answered with [`Error::Stopped`]. A Registry whose last
//!   address is dropped goes the same way, as well as it can while the process lives; only an awaited `Shutdown` promises
//!   that all is deregistered. Thread, sockets and timers end with it. The end of the application's actix System does not
//!   end the Registry.
//! - **What a crash loses.** A process that is killed deregisters nothing: servers call its instances unhealthy after 15 s
//!   without a beat and remove them after 30 s (the metadata [`HEART_BEAT_TIMEOUT`] and [`IP_DELETE_TIMEOUT`] change
//!   that). Persistent instances stay until somebody deregisters them.
//!
//! # Features
//! | feature | default | what it adds |
//! |---|---|---|
//! | `actix-web` | off | [`serve`](serve()) and [`StatusRoutes`]: lifecycle, health, metrics and a status page for actix-web |
//! | `embedded` | off | the module `embedded`: a Nacos server inside this process, for local development, examples and tests |
//! | `rustls` | off | `https` servers by rustls, with the platform's roots |
//! | `openssl` | off | `https` servers by the system's OpenSSL |
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod client;
mod config;
mod discovery;
mod error;
mod metrics;
mod model;
mod registry;
mod runtime;
mod wire;

#[cfg(feature = "embedded")]
#[cfg_attr(docsrs, doc(cfg(feature = "embedded")))]
pub mod embedded;
#[cfg(feature = "actix-web")]
mod serve;
#[cfg(feature = "_testing")]
#[doc(hidden)]
pub mod testing;

pub mod prelude;

pub use client::request_counters::RequestStatus;
pub use config::{Config, Protocol, PushConfig, ServerList, TlsConfig};
pub use discovery::{
    subscriber::SubscriptionStatus,
    view::{Instances, Selected, ServiceView, ViewControl},
};
pub use error::{Error, Operation};
pub use model::{
    change::{Change, ServiceChanged, Source},
    connection::ConnectionState,
    heartbeat::HeartbeatReply,
    histogram::{Bucket, Histogram},
    instance::{
        Instance, InstanceKey, Metadata, DEFAULT_CLUSTER, HEART_BEAT_INTERVAL, HEART_BEAT_TIMEOUT, IP_DELETE_TIMEOUT,
    },
    service::{ServiceInfo, ServiceName, ServiceRef, DEFAULT_GROUP},
};
pub use registry::{
    ConnectionChanged, DeregisterInstance, Discover, GetInstance, GetStatus, InstanceState, InstanceStateChanged,
    InstanceStatus, ListInstances, ListServices, ModifyInstance, NotDeregistered, PushStatus, RegisterInstance,
    Registration, Registry, RegistryStatus, SendHeartbeat, ServerStatus, ServiceList, SessionStatus, SetAccessKey,
    SetCredentials, Shutdown, ShutdownGuard, ShutdownReport, StopSubscribe, Subscribe, Unsubscribe, UnwatchConnection,
    UnwatchInstances, WatchConnection, WatchInstances,
};
pub use runtime::blocking::block_on;
#[cfg(feature = "actix-web")]
#[cfg_attr(docsrs, doc(cfg(feature = "actix-web")))]
pub use serve::{serve, Serve, StatusRoutes};

/// The code in these documents is tested.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/api.md")]
    mod api {}
    #[doc = include_str!("../docs/migration.md")]
    mod migration {}
    #[doc = include_str!("../docs/operations.md")]
    mod operations {}

    mod guide {
        #[doc = include_str!("../docs/guide/call-others.md")]
        mod call_others {}
        #[doc = include_str!("../docs/guide/go-offline.md")]
        mod go_offline {}
        #[doc = include_str!("../docs/guide/react-to-changes.md")]
        mod react_to_changes {}
        #[doc = include_str!("../docs/guide/register.md")]
        mod register {}
        #[doc = include_str!("../docs/guide/run-without-a-registry.md")]
        mod run_without_a_registry {}
        #[doc = include_str!("../docs/guide/several-registries.md")]
        mod several_registries {}
        #[doc = include_str!("../docs/guide/test-against-a-bad-registry.md")]
        mod test_against_a_bad_registry {}
        #[doc = include_str!("../docs/guide/tls-and-logins.md")]
        mod tls_and_logins {}
        #[doc = include_str!("../docs/guide/tune-for-100000-instances.md")]
        mod tune_for_100000_instances {}
    }
}
