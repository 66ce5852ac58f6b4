//! A client of the [Nacos](https://nacos.io) service registry for actix applications. It registers instances, keeps
//! them alive with heartbeats, finds the instances of other services, and notifies actors of changes.
//!
//! An application sends typed messages to one [`Registry`] actor. Changes arrive as messages at the application's own
//! actors. A [`ServiceView`] chooses the instance to call, in any thread and without a message. With the feature
//! `embedded`, a Nacos server runs inside the process, so this program needs nothing else:
//!
//! ```
//! use std::time::Duration;
//!
//! use actix::prelude::*;
//! use actix_nacos::{embedded::EmbeddedServer, prelude::*};
//!
//! /// An actor of the application that follows the instances of `orders`.
//! struct Watcher;
//!
//! impl Actor for Watcher {
//!     type Context = Context<Self>;
//! }
//!
//! impl Handler<ServiceChanged> for Watcher {
//!     type Result = ();
//!
//!     fn handle(&mut self, change: ServiceChanged, _: &mut Context<Self>) {
//!         println!("{} has {} instances, {} are new", change.service, change.info.hosts.len(), change.added.len());
//!     }
//! }
//!
//! #[actix::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let nacos = EmbeddedServer::start()?; // a real one: Config::new("192.0.2.1:8848,192.0.2.2:8848")
//!     let registry = Registry::start(Config::new(nacos.server_address()))?;
//!
//!     // Register an instance. From now on heartbeats keep it alive.
//!     let orders = RegisterInstance::new("orders", "127.0.0.7", 8080).weight(2.0).metadata("zone", "a");
//!     registry.send(orders).await??;
//!
//!     // List the instances.
//!     let list = registry.send(ListInstances::new("orders").healthy_only()).await??;
//!     assert_eq!(list.hosts[0].metadata["zone"], "a");
//!
//!     // Subscribe an actor to changes.
//!     registry.send(Subscribe::new("orders", Watcher.start().recipient())).await??;
//!
//!     // Discover the service: a view of the list that stays current.
//!     let orders = registry.send(Discover::new("orders")).await??;
//!     orders.ready_within(Duration::from_secs(5)).await?;
//!     let instance = orders.select_one().ok_or("orders has no instance")?;
//!     assert_eq!(instance.authority(), "127.0.0.7:8080");
//!
//!     // Deregister everything and end.
//!     let report = registry.send(Shutdown::default()).await??;
//!     assert_eq!(report.deregistered, 1);
//!     Ok(())
//! }
//! ```
//!
//! # Which message does what?
//! | to do this | send | answer |
//! |---|---|---|
//! | register an instance and keep it alive | [`RegisterInstance`] | [`Registration`] |
//! | change or remove an instance | [`ModifyInstance`], [`DeregisterInstance`] | `()` |
//! | read one instance, or the list of a service | [`GetInstance`], [`ListInstances`] | [`Instance`], [`ServiceInfo`] |
//! | choose an instance to call | [`Discover`] | [`ServiceView`] |
//! | be notified when a list changes | [`Subscribe`], [`Unsubscribe`], [`StopSubscribe`] | `()`, then [`ServiceChanged`] |
//! | be notified when servers are lost | [`WatchConnection`], [`UnwatchConnection`] | `()`, then [`ConnectionChanged`] |
//! | be notified of the state of your instances | [`WatchInstances`], [`UnwatchInstances`] | `()`, then [`InstanceStateChanged`] |
//! | list the services of a group | [`ListServices`] | [`ServiceList`] |
//! | send a heartbeat yourself | [`SendHeartbeat`] | [`HeartbeatReply`] |
//! | read the state of the client | [`GetStatus`] | [`RegistryStatus`] |
//! | replace credentials | [`SetCredentials`], [`SetAccessKey`] | `()` |
//! | deregister everything and end | [`Shutdown`] | [`ShutdownReport`] |
//!
//! # Starting
//! [`Registry::start`] runs the Registry on a thread of its own. It works anywhere: in a plain thread, under
//! `#[tokio::main]`, `#[actix::main]` or `#[actix_web::main]`. [`Registry::start_here`] runs it on the current arbiter
//! instead. Both return an `Addr<Registry>`, which can be cloned and stored.
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
//! [`Config`] can also be deserialised from a configuration file, and [`Config::overridden_by_env`] lets environment
//! variables override it.
//!
//! In a thread without a runtime, [`block_on`] waits for everything that these examples `await`.
//!
//! # Registering
//! [`RegisterInstance`] has a setter for each value of an instance, which names its default. Registering an instance
//! again replaces its values. The answer is a [`Registration`], which any thread can ask whether the instance is
//! registered. [`ModifyInstance`] changes only the values that it is given. [`Config::local_ip`] finds the address of
//! this machine.
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
//! # Reacting to changes
//! [`Subscribe`] sends an actor a [`ServiceChanged`] whenever the list of a service changes. The message has the whole
//! list, and which instances were added, changed (before and after) and removed.
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
//!     fn handle(&mut self, change: ServiceChanged, ctx: &mut Context<Self>) {
//!         for (before, after) in &change.changed {
//!             println!("{}: weight {} is now {}", after.authority(), before.weight, after.weight);
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
//! # Calling other services
//! [`Discover`] gives a [`ServiceView`]. Reading it takes nanoseconds, takes no lock and allocates nothing, in any
//! thread and under any runtime. [`ServiceView::select_one`] chooses among the healthy and enabled instances, by their
//! weights.
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
//! let view = orders.clone();
//! let chosen = thread::spawn(move || view.select_one().map(|instance| instance.authority()));
//! assert_eq!(chosen.join().unwrap().as_deref(), Some("127.0.0.7:8080"));
//! # Ok(())
//! # }
//! ```
//!
//! # Calling by name
//! A [`balance::Client`] wraps an awc client. It sends each request to an instance of the service that the URL names,
//! and to another instance if the first fails.
//!
//! ```no_run
//! # use actix_nacos::{balance::{Client, Retry}, prelude::*};
//! # async fn run(registry: actix::Addr<Registry>) -> Result<(), awc::error::SendRequestError> {
//! let http = Client::builder(&registry).service("orders").retry(Retry::once()).finish();
//! let items = http.get("http://orders/items").send().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Checking the state
//! [`GetStatus`] reports the state of each server, of the login, of each registered instance and of each subscription.
//! The answer serialises to JSON, for a status page. [`WatchConnection`] notifies an actor when servers are lost or
//! back.
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
//! # Shutting down
//! An awaited [`Shutdown`] deregisters the instances, then ends the Registry. With
//! [`drain_until_noticed`](Shutdown::drain_until_noticed) it then waits until callers have noticed, so that no request
//! is lost. [`ShutdownGuard`] does the same when it is dropped. In an actix-web application, `serve` (feature
//! `actix-web`) registers first, and does all of this on SIGTERM and Ctrl-C:
//!
//! ```no_run
//! use actix_nacos::prelude::*;
//! use actix_web::{App, HttpServer};
//!
//! # async fn run(registry: actix::Addr<Registry>) -> Result<(), Error> {
//! let server = HttpServer::new(App::new).bind(("0.0.0.0", 8080))?;
//! actix_nacos::serve(server, registry).register("orders").await
//! # }
//! ```
//!
//! # Errors
//! Every message is answered with a `Result`, and every error is an [`Error`]. It says which operation failed, at which
//! server, and why. [`Error::is_retryable`] says whether the same request may succeed later. A closed mailbox becomes
//! [`Error::Stopped`], so `registry.send(…).await??` works in a function that returns `Result<_, actix_nacos::Error>`.
//! Invalid input is [`Error::InvalidInput`], which names the field and the rule; nothing was sent then.
//!
//! # Testing your application
//! The module `embedded` is a whole server for integration tests. Unit tests need no server: [`ServiceView::fixed`] and
//! [`ServiceView::controlled`] make views, [`ServiceChanged::between`] and [`ConnectionChanged::new`] make the messages
//! that listeners receive, and [`RegistryStatus::default`] makes a status.
//!
//! # Behavior
//! - **Heartbeats.** Each registered ephemeral instance sends its first heartbeat within 5.5 s, then one every 5 s or
//!   at the interval that the server asks for. Heartbeats that are due together are sent together, and instances that
//!   are registered together are spread over the interval. Persistent instances send none, because the server checks
//!   their health. With [`Registry::start`], a handler that blocks the application's threads delays no heartbeat.
//! - **Order.** Messages about the same instance take effect in the order in which the mailbox received them, whether
//!   they are awaited or not. Different instances do not wait for each other. A heartbeat under way never brings a
//!   deregistered instance back.
//! - **Unreachable servers.** An operation tries the other servers, and tries again until [`Config::operation_timeout`]
//!   (10 s) has passed. Then it fails with a retryable error. So a registration or a change may reach a server twice,
//!   which has the same effect as once. During an outage each server is tried at growing intervals of at most 2 s,
//!   however many instances there are.
//! - **Recovery.** Registered instances and subscriptions are kept through an outage. After a restart of the server, a
//!   change to another server or an outage, each instance is registered again with its current values, instead of its
//!   next heartbeat.
//! - **What a listener receives.** The first message has the current list, with `first` set and all instances in
//!   `added`. A listener that subscribes later receives the known list at once. The first list of a service without
//!   instances is empty. All further messages are changes, each compared with the list that *this* listener received
//!   last. A listener whose mailbox is full receives the newest list later; a listener that has stopped is removed.
//! - **How changes arrive.** Servers that push (Nacos 1.x to 3.1) report a change within about a second, by UDP. All
//!   lists are also polled, as a rule every 8.5 to 10 s, for servers that do not push and for networks that drop
//!   pushes. A listener receives each change once, in the order of the server.
//! - **Lists in an outage.** A failed poll is no change: listeners receive nothing, and views keep their list and
//!   report [`is_stale`](ServiceView::is_stale). After an outage or a change of server, an instance that the server has
//!   not listed since is withheld from removal for [`Config::outage_hold`] (15 s). A server that has restarted lists
//!   all instances only after a heartbeat interval. [`ServiceView::withheld`] names these instances.
//! - **Panics.** A panic in a handler, a timer or a future costs the operation in which it happens, which is answered
//!   with [`Error::Panicked`]. The Registry goes on. (Not with `panic = "abort"`.)
//! - **The end.** After [`Shutdown`] every message is answered with [`Error::Stopped`]. Dropping the last address of a
//!   Registry deregisters its instances, too, as far as that is possible while the process lives; only an awaited
//!   `Shutdown` guarantees it. The Registry's thread, sockets and timers end with it. With [`Registry::start`] it
//!   outlives the application's actix System.
//! - **A crash.** A process that is killed deregisters nothing. Servers mark its ephemeral instances as unhealthy after
//!   15 s without a heartbeat, and remove them after 30 s. The metadata entries [`HEART_BEAT_TIMEOUT`] and
//!   [`IP_DELETE_TIMEOUT`] change these times. Persistent instances stay until they are deregistered.
//!
//! # Features
//! | feature | default | what it adds |
//! |---|---|---|
//! | `actix-web` | off | [`serve`](serve()) and [`StatusRoutes`]: lifecycle, health, metrics and a status page for actix-web |
//! | `embedded` | off | the module `embedded`: a Nacos server inside the process, for local development, examples and tests |
//! | `rustls` | off | `https` to servers with rustls and the root certificates of the platform |
//! | `openssl` | off | `https` to servers with the OpenSSL of the system |
//! | `tracing` | off | log records as events of `tracing`, with fields, where the application has set up a subscriber |
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod balance;
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
    subscription::SubscriptionStatus,
    view::{
        Call, CallTotals, Eject, EjectionChanged, EjectionStatus, InstanceChange, InstanceChanges, Instances, Lists,
        Policy, Selected, Selection, ServiceView, ViewControl,
    },
};
pub use error::{Error, NoInstanceReasons, Operation};
pub use model::{
    change::{Change, ServiceChanged, Source},
    connection::{ConnectionChanged, ConnectionState},
    heartbeat::HeartbeatReply,
    histogram::{Bucket, Histogram},
    instance::{Instance, InstanceKey, DEFAULT_CLUSTER, HEART_BEAT_INTERVAL, HEART_BEAT_TIMEOUT, IP_DELETE_TIMEOUT},
    instance_state::{InstanceState, InstanceStateChanged},
    metadata::Metadata,
    names::{ServiceName, ServiceRef, DEFAULT_GROUP},
    service::ServiceInfo,
};
pub use registry::{
    Choose, DeregisterInstance, Discover, GetInstance, GetStatus, InstanceStatus, ListInstances, ListServices,
    ModifyInstance, NotDeregistered, PushStatus, RegisterInstance, Registration, Registry, RegistryStatus,
    SendHeartbeat, ServerStatus, ServiceList, SessionStatus, SetAccessKey, SetCredentials, Shutdown, ShutdownGuard,
    ShutdownReport, StopSubscribe, Subscribe, Unsubscribe, UnwatchConnection, UnwatchEjections, UnwatchInstances,
    WatchConnection, WatchEjections, WatchInstances,
};
pub use runtime::{
    blocking::block_on,
    history::{ChangedInstances, ListChange, RegistryEvent, RegistryEventKind},
};
#[cfg(feature = "actix-web")]
#[cfg_attr(docsrs, doc(cfg(feature = "actix-web")))]
pub use serve::{serve, Serve, StatusRoutes};
/// The texts of instances and names: up to 23 bytes without an allocation, longer ones shared by their clones.
///
/// Dereferences to `str`. Made by `"text".into()` or `String::into`.
#[doc(no_inline)]
pub use smol_str::SmolStr;

/// Tests the code in the documents.
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
        #[doc = include_str!("../docs/guide/choose-instances.md")]
        mod choose_instances {}
        #[doc = include_str!("../docs/guide/go-offline.md")]
        mod go_offline {}
        #[doc = include_str!("../docs/guide/look-at-the-registry.md")]
        mod look_at_the_registry {}
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
