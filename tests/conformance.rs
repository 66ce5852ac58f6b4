//! Tests every operation, its defaults and its failures with the same assertions on every server.
//!
//! By default it runs on the embedded server in all its dialects, one after the other. `NACOS_DIALECT=2.5` selects one
//! dialect. `NACOS_AUTH=on` turns logins on, and with `NACOS_DELAYS=on` lists show changes as late as the originals do.
//! `NACOS_SERVER_ADDR=127.0.0.1:8848`, with `NACOS_USERNAME` and `NACOS_PASSWORD` where it wants a login, runs the
//! suite on that server instead. Every test uses its own service and deregisters its instances.
//!
//! [`Kind`] has the differences between servers, and `docs/servers.md` explains them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    env,
    io::{Read, Write},
    net::TcpStream,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use actix::prelude::*;
use actix_nacos::{
    embedded::{Dialect, EmbeddedServer},
    Config, DeregisterInstance, Discover, Error, GetInstance, GetStatus, Instance, ListInstances, ListServices,
    Metadata, ModifyInstance, RegisterInstance, Registry, SendHeartbeat, ServiceInfo, Shutdown, Source, StopSubscribe,
    Subscribe, Unsubscribe, DEFAULT_CLUSTER, DEFAULT_GROUP, HEART_BEAT_TIMEOUT, IP_DELETE_TIMEOUT,
};
use futures_util::FutureExt as _;
use support::{ask, config_at, eventually, listed_ports, ms, ports_of, start, unique, News, IP};

/// The kind of the server. It decides which operations the server supports.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Nacos(Dialect),
    RNacos,
}

impl Kind {
    /// Nacos 3 shows single instances, and accepts changes of other owners' instances, only in its admin API.
    fn wants_an_administrator(self) -> bool {
        matches!(self, Kind::Nacos(Dialect::V3_0 | Dialect::V3_2))
    }

    /// Since 2.0, a change by others is merged with the values of the owner. A metadata key that is left out keeps the
    /// owner's value.
    fn takes_metadata_from_others(self) -> bool {
        matches!(self, Kind::Nacos(Dialect::V1_4) | Kind::RNacos)
    }

    /// The v3 API answers a beat with `ok` and nothing else.
    fn tells_the_beat_interval(self) -> bool {
        !matches!(self, Kind::Nacos(Dialect::V3_2))
    }

    /// r-nacos registers an unknown instance with weight 1, whatever weight the beat has.
    fn takes_weights_from_beats(self) -> bool {
        self != Kind::RNacos
    }

    /// Since 2.0, Nacos identifies a client by ip and port, and a client registers one instance per service. r-nacos
    /// identifies an instance by ip and port, too.
    fn keeps_clusters_apart(self) -> bool {
        self == Kind::Nacos(Dialect::V1_4)
    }

    /// Detects the kind of the server at `address`: by its answer to a path that no server has, and by what it reports
    /// about itself. A server that requires a login reports that only with a token.
    fn find_out(address: &str, credentials: Option<&Credentials>) -> Self {
        let token = credentials.map(|(username, password)| {
            let login = format!("/nacos/v1/auth/login?username={username}&password={password}");
            let answer = exchange(address, "POST", &login);
            let token = answer.split(r#""accessToken":""#).nth(1).and_then(|rest| rest.split('"').next());
            token.map(str::to_owned).unwrap_or_default()
        });
        let token = token.map_or_else(String::new, |token| format!("&accessToken={token}"));
        let get = |path: &str| exchange(address, "GET", &format!("{path}{token}"));
        if get("/nacos/v1/ns/nothing?x=x").contains(" 404 ") {
            return if get("/nacos/v3/client/ns/instance/list?serviceName=x").contains(" 200 ") {
                Kind::Nacos(Dialect::V3_2)
            } else {
                Kind::RNacos
            };
        }
        let state = get("/nacos/v1/console/server/state?x=x");
        match () {
            () if state.contains("\"version\":\"1.") => Kind::Nacos(Dialect::V1_4),
            () if state.contains("\"version\":\"2.") => Kind::Nacos(Dialect::V2_5),
            () => Kind::Nacos(Dialect::V3_0),
        }
    }
}

type Credentials = (String, String);

/// Sends a request without a body, and returns the whole answer.
fn exchange(address: &str, method: &str, target: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the server that NACOS_SERVER_ADDR names");
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// One server, two Registries that use it, and a service that no other test uses.
struct World {
    kind: Kind,
    /// `None` for the server in `NACOS_SERVER_ADDR`.
    embedded: Option<EmbeddedServer>,
    config: Config,
    /// Whether the Registries may use operations that need an administrator on this kind of server.
    administers: bool,
    registry: Addr<Registry>,
    other_owner: Addr<Registry>,
    service: String,
}

impl World {
    /// Starts an embedded server. 3.2 has a user, because its operations need one; the others have one only with
    /// `NACOS_AUTH=on`.
    fn embedded(dialect: Dialect) -> Self {
        let wants_login = dialect == Dialect::V3_2 || env::var("NACOS_AUTH").is_ok_and(|auth| auth == "on");
        let has_delays = env::var("NACOS_DELAYS").is_ok_and(|delays| delays == "on");
        let server = if has_delays { EmbeddedServer::builder() } else { support::builder() };
        let (server, credentials) = match wants_login {
            true => (server.user("nacos", "nacos"), Some(("nacos".into(), "nacos".into()))),
            false => (server, None),
        };
        let server = server.dialect(dialect).start().unwrap();
        Self::at(Kind::Nacos(dialect), &server.server_address(), credentials, Some(server))
    }

    fn named(address: &str) -> Self {
        let credentials = env::var("NACOS_USERNAME").ok().zip(env::var("NACOS_PASSWORD").ok());
        Self::at(Kind::find_out(address, credentials.as_ref()), address, credentials, None)
    }

    fn at(kind: Kind, address: &str, credentials: Option<Credentials>, embedded: Option<EmbeddedServer>) -> Self {
        let administers = !kind.wants_an_administrator() || credentials.is_some();
        let config = config_at(address);
        let config = match credentials {
            Some((username, password)) => config.credentials(username, password),
            None => config,
        };
        let (registry, other_owner) = (start(config.clone()), start(config.clone()));
        World { kind, embedded, config, administers, registry, other_owner, service: unique("conformance") }
    }

    async fn ask<M, T>(&self, message: M) -> T
    where
        M: Message<Result = Result<T, Error>> + Send + 'static,
        T: Send + 'static,
        Registry: Handler<M>,
    {
        ask(&self.registry, message).await.unwrap()
    }

    fn register(&self, port: u16) -> RegisterInstance {
        RegisterInstance::new(&self.service, IP, port)
    }

    fn deregister(&self, port: u16) -> DeregisterInstance {
        DeregisterInstance::new(&self.service, IP, port)
    }

    fn modify(&self, port: u16) -> ModifyInstance {
        ModifyInstance::new(&self.service, IP, port)
    }

    fn get(&self, port: u16) -> GetInstance {
        GetInstance::new(&self.service, IP, port)
    }

    fn list(&self) -> ListInstances {
        ListInstances::new(&self.service)
    }

    /// Waits until `is_so` holds for the list. Servers show a change up to a second later.
    async fn listed(&self, what: &str, is_so: impl Fn(&[Arc<Instance>]) -> bool) -> ServiceInfo {
        self.listed_by(self.list(), what, is_so).await
    }

    async fn listed_by(
        &self,
        list: ListInstances,
        what: &str,
        is_so: impl Fn(&[Arc<Instance>]) -> bool,
    ) -> ServiceInfo {
        let probe = async || {
            let info = self.ask(list.clone()).await;
            is_so(&info.hosts).then_some(info)
        };
        eventually(what, probe).await
    }

    async fn listed_ports(&self, ports: &[u16]) -> ServiceInfo {
        self.listed(&format!("the list shows {ports:?}"), |hosts| ports_of(hosts) == ports).await
    }

    /// Advances the embedded server's clock, or waits on a real server, until `probe` returns a value.
    async fn wait_for_the_server<T>(&self, what: &str, probe: impl AsyncFn() -> Option<T>) -> T {
        for _ in 0..60 {
            if let Some(found) = probe().await {
                return found;
            }
            match &self.embedded {
                Some(server) => server.advance(Duration::from_secs(1)),
                None => actix_rt::time::sleep(Duration::from_secs(1)).await,
            }
        }
        panic!("waited 60 s of the server's time until {what}");
    }

    async fn close(&self) {
        for registry in [&self.registry, &self.other_owner] {
            // The test may have shut the Registry down already.
            let _ = ask(registry, Shutdown::default().persistent_too()).await;
        }
    }
}

/// Runs `claim` on every server, one after the other. Panics at the end with the names of the servers where it failed.
async fn everywhere(claim: impl AsyncFn(&World)) {
    let mut failed = Vec::new();
    for world in worlds() {
        let kind = world.kind;
        if AssertUnwindSafe(claim(&world)).catch_unwind().await.is_err() {
            failed.push(kind);
        }
        world.close().await;
    }
    assert!(failed.is_empty(), "failed on {failed:?}; the reasons are above");
}

fn worlds() -> Box<dyn Iterator<Item = World>> {
    if let Some(address) = env::var("NACOS_SERVER_ADDR").ok().filter(|address| !address.is_empty()) {
        return Box::new(std::iter::once_with(move || World::named(&address)));
    }
    match env::var("NACOS_DIALECT") {
        Ok(dialect) => {
            let dialect = dialect.parse().unwrap();
            Box::new(std::iter::once_with(move || World::embedded(dialect)))
        }
        Err(_) => Box::new(Dialect::all().map(World::embedded)),
    }
}

fn metadata(pairs: &[(&str, &str)]) -> Metadata {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

// Register.

#[actix::test]
async fn values_that_are_not_given_get_nacos_defaults() {
    everywhere(async |world| {
        world.ask(world.register(8080)).await;
        let info = world.listed_ports(&[8080]).await;
        let host = &info.hosts[0];
        assert_eq!((host.ip.as_str(), host.port), (IP, 8080));
        assert_eq!(host.weight, 1.0);
        assert!(host.healthy && host.enabled && host.ephemeral, "{host:?}");
        assert_eq!(host.cluster_name, DEFAULT_CLUSTER);
        assert_eq!(host.service_name, format!("{DEFAULT_GROUP}@@{}", world.service));
        assert_eq!(host.metadata, Metadata::new());
    })
    .await;
}

#[actix::test]
async fn registered_values_are_listed_as_they_were_given() {
    everywhere(async |world| {
        let odd = metadata(&[("zone", "a&b=c d+e%20"), ("empty", ""), ("umlaut", "grüße, \"世界\" \\ \u{1F600}")]);
        let register = world.register(8080).group("PAY").cluster("north").weight(2.5).all_metadata(odd.clone());
        world.ask(register).await;
        let list = world.list().group("PAY");
        let info = world.listed_by(list, "it is listed", |hosts| hosts.len() == 1).await;
        let host = &info.hosts[0];
        assert_eq!((host.weight, host.cluster_name.as_str()), (2.5, "north"));
        assert_eq!(host.service_name, format!("PAY@@{}", world.service));
        assert_eq!(host.metadata, odd);
    })
    .await;
}

#[actix::test]
async fn ipv6_addresses_and_host_names_can_be_registered() {
    everywhere(async |world| {
        for ip in ["::1", "localhost"] {
            world.ask(RegisterInstance::new(&world.service, ip, 8080)).await;
        }
        let info = world.listed("both are listed", |hosts| hosts.len() == 2).await;
        let ips: Vec<_> = info.hosts.iter().map(|host| host.ip.as_str()).collect();
        assert_eq!(ips, ["::1", "localhost"]);
    })
    .await;
}

#[actix::test]
async fn a_grouped_name_is_a_service_in_a_group() {
    everywhere(async |world| {
        let grouped = format!("PAY@@{}", world.service);
        world.ask(RegisterInstance::new(&grouped, IP, 8080)).await;
        world.listed_by(world.list().group("PAY"), "it is in the group", |hosts| hosts.len() == 1).await;
        world.listed_by(ListInstances::new(&grouped), "it has the name", |hosts| hosts.len() == 1).await;
        assert!(world.ask(world.list()).await.hosts.is_empty(), "the default group is another one");
        world.ask(DeregisterInstance::new(&grouped, IP, 8080).group("PAY")).await;
        world.listed_by(ListInstances::new(&grouped), "it is gone", <[_]>::is_empty).await;
    })
    .await;
}

#[actix::test]
async fn registering_again_makes_the_new_values_win() {
    everywhere(async |world| {
        world.ask(world.register(8080).weight(2.0).metadata("a", "1").metadata("b", "2")).await;
        world.listed_ports(&[8080]).await;
        world.ask(world.register(8080).weight(5.0).metadata("c", "3")).await;
        let info = world.listed("the new weight is listed", |hosts| hosts[0].weight == 5.0).await;
        assert_eq!(info.hosts[0].metadata, metadata(&[("c", "3")]));
    })
    .await;
}

#[actix::test]
async fn a_persistent_instance_is_listed_as_one_and_deregistered_as_one() {
    everywhere(async |world| {
        world.ask(world.register(8080).ephemeral(false)).await;
        let info = world.listed_ports(&[8080]).await;
        assert!(!info.hosts[0].ephemeral);
        world.ask(world.deregister(8080)).await;
        world.listed_ports(&[]).await;
    })
    .await;
}

#[actix::test]
async fn a_disabled_instance_is_in_no_list() {
    everywhere(async |world| {
        world.ask(world.register(8080).enabled(false)).await;
        world.ask(world.register(8081)).await;
        world.listed_ports(&[8081]).await;
        world.ask(world.register(8080).enabled(true)).await;
        world.listed_ports(&[8080, 8081]).await;
    })
    .await;
}

#[actix::test]
async fn the_same_address_in_two_clusters_is_two_instances_where_servers_keep_them_apart() {
    everywhere(async |world| {
        world.ask(world.register(8080).cluster("north")).await;
        world.ask(world.register(8080).cluster("south")).await;
        let expected: &[&str] = if world.kind.keeps_clusters_apart() { &["north", "south"] } else { &["south"] };
        let clusters = |hosts: &[Arc<Instance>]| hosts.iter().map(|host| host.cluster_name.clone()).collect::<Vec<_>>();
        world.listed("the clusters are listed", |hosts| clusters(hosts) == expected).await;
    })
    .await;
}

// Deregister.

#[actix::test]
async fn deregistering_takes_one_instance_out_and_leaves_the_others() {
    everywhere(async |world| {
        world.ask(world.register(8080)).await;
        world.ask(world.register(8081)).await;
        world.listed_ports(&[8080, 8081]).await;
        world.ask(world.deregister(8080)).await;
        world.listed_ports(&[8081]).await;
    })
    .await;
}

#[actix::test]
async fn deregistering_an_unknown_instance_is_ok() {
    everywhere(async |world| {
        world.ask(world.deregister(8080)).await;
        world.ask(world.register(8080)).await;
        world.ask(world.deregister(8081)).await;
        world.ask(world.deregister(8080)).await;
        world.ask(world.deregister(8080)).await;
    })
    .await;
}

#[actix::test]
async fn every_client_can_deregister_an_instance() {
    everywhere(async |world| {
        world.ask(world.register(8080).ephemeral(false)).await;
        world.listed_ports(&[8080]).await;
        ask(&world.other_owner, world.deregister(8080).ephemeral(false)).await.unwrap();
        world.listed_ports(&[]).await;
    })
    .await;
}

// Modify.

#[actix::test]
async fn modifying_an_own_instance_leaves_values_that_are_not_given() {
    everywhere(async |world| {
        world.ask(world.register(8080).weight(2.0).metadata("a", "1")).await;
        world.listed_ports(&[8080]).await;
        world.ask(world.modify(8080).weight(3.0)).await;
        let info = world.listed("the weight has changed", |hosts| hosts[0].weight == 3.0).await;
        assert_eq!(info.hosts[0].metadata, metadata(&[("a", "1")]), "by a change of the weight");
        world.ask(world.modify(8080).all_metadata(metadata(&[("b", "2")]))).await;
        let info = world.listed("the metadata has changed", |hosts| hosts[0].metadata.contains_key("b")).await;
        assert_eq!((info.hosts[0].weight, info.hosts[0].metadata.len()), (3.0, 1), "by a change of the metadata");
        world.ask(world.modify(8080).enabled(false)).await;
        world.listed_ports(&[]).await;
        world.ask(world.modify(8080).weight(4.0)).await;
        assert!(!world.ask(world.get(8080)).await.enabled, "by a change of the weight");
        world.ask(world.modify(8080).enabled(true)).await;
        let info = world.listed_ports(&[8080]).await;
        assert_eq!((info.hosts[0].weight, &info.hosts[0].metadata), (4.0, &metadata(&[("b", "2")])));
    })
    .await;
}

#[actix::test]
async fn modifying_an_own_persistent_instance_leaves_it_persistent() {
    everywhere(async |world| {
        world.ask(world.register(8080).ephemeral(false).metadata("a", "1")).await;
        world.listed_ports(&[8080]).await;
        world.ask(world.modify(8080).weight(3.0)).await;
        let info = world.listed("the weight has changed", |hosts| hosts[0].weight == 3.0).await;
        assert!(!info.hosts[0].ephemeral);
        assert_eq!(info.hosts[0].metadata, metadata(&[("a", "1")]));
    })
    .await;
}

#[actix::test]
async fn modifying_anothers_instance_leaves_values_that_are_not_given_or_is_an_error() {
    everywhere(async |world| {
        world.ask(world.register(8080).weight(2.0).metadata("a", "1")).await;
        world.ask(world.register(8081)).await;
        world.listed_ports(&[8080, 8081]).await;
        let modify = |change| ask(&world.other_owner, change);
        if !world.administers {
            let refused = modify(world.modify(8080).weight(3.0)).await;
            // Nacos 3 has this operation in its admin API, which requires a login.
            assert!(matches!(refused, Err(Error::Unauthorized { .. })), "{refused:?}");
            let info = world.listed_ports(&[8080, 8081]).await;
            assert_eq!(info.hosts[0].weight, 2.0, "nothing has changed");
            return;
        }
        modify(world.modify(8080).weight(3.0)).await.unwrap();
        let info = world.listed("the weight has changed", |hosts| hosts[0].weight == 3.0).await;
        assert_eq!(info.hosts[0].metadata, metadata(&[("a", "1")]), "by a change of the weight");
        modify(world.modify(8080).all_metadata(metadata(&[("b", "2")]))).await.unwrap();
        let info = world.listed("the metadata has changed", |hosts| hosts[0].metadata.contains_key("b")).await;
        assert_eq!(info.hosts[0].weight, 3.0, "by a change of the metadata");
        let changed = info.hosts[0].metadata.clone();
        let replaced = world.kind.takes_metadata_from_others();
        assert_eq!(changed, metadata(if replaced { &[("b", "2")] } else { &[("a", "1"), ("b", "2")] }));
        modify(world.modify(8080).enabled(false)).await.unwrap();
        world.listed_ports(&[8081]).await;
        modify(world.modify(8080).weight(4.0)).await.unwrap();
        let found = ask(&world.other_owner, world.get(8080)).await.unwrap();
        assert_eq!((found.enabled, found.weight), (false, 4.0), "by a change of the weight");
        modify(world.modify(8080).enabled(true)).await.unwrap();
        let info = world.listed_ports(&[8080, 8081]).await;
        assert_eq!((info.hosts[0].weight, &info.hosts[0].metadata), (4.0, &changed));
    })
    .await;
}

#[actix::test]
async fn modifying_an_unknown_instance_is_not_found() {
    everywhere(async |world| {
        let no_service = ask(&world.registry, world.modify(8080).weight(2.0)).await;
        assert!(matches!(no_service, Err(Error::NotFound { .. })), "{no_service:?}");
        world.ask(world.register(8081)).await;
        let no_instance = ask(&world.registry, world.modify(8080).weight(2.0)).await;
        assert!(matches!(no_instance, Err(Error::NotFound { .. })), "{no_instance:?}");
        world.listed_ports(&[8081]).await;
    })
    .await;
}

// Get.

#[actix::test]
async fn an_instance_is_read_as_it_was_registered_by_its_owner_and_by_others() {
    everywhere(async |world| {
        world.ask(world.register(8080).group("PAY").cluster("north").weight(2.5).metadata("zone", "a")).await;
        let list = world.list().group("PAY");
        world.listed_by(list, "it is listed", |hosts| hosts.len() == 1).await;
        for registry in [&world.registry, &world.other_owner] {
            let get = world.get(8080).group("PAY").cluster("north");
            let found = ask(registry, get).await.unwrap();
            assert_eq!((found.ip.as_str(), found.port, found.cluster_name.as_str()), (IP, 8080, "north"));
            assert_eq!((found.weight, &found.metadata), (2.5, &metadata(&[("zone", "a")])));
            assert!(found.healthy && found.enabled && found.ephemeral, "{found:?}");
            assert_eq!(found.service_name, format!("PAY@@{}", world.service));
        }
    })
    .await;
}

#[actix::test]
async fn a_persistent_instance_is_read_as_one() {
    everywhere(async |world| {
        world.ask(world.register(8080).ephemeral(false)).await;
        world.listed_ports(&[8080]).await;
        assert!(!world.ask(world.get(8080)).await.ephemeral);
        assert!(!ask(&world.other_owner, world.get(8080)).await.unwrap().ephemeral);
    })
    .await;
}

#[actix::test]
async fn getting_an_unknown_instance_is_not_found() {
    everywhere(async |world| {
        let not_found = async |get: GetInstance| {
            let refused = ask(&world.registry, get).await;
            let Err(Error::NotFound { instance, may_be_disabled }) = refused else { panic!("{refused:?}") };
            assert!(instance.contains(IP) && instance.contains(&world.service), "{instance}");
            assert_eq!(may_be_disabled, !world.administers);
        };
        not_found(world.get(8080)).await;
        world.ask(world.register(8080)).await;
        world.listed_ports(&[8080]).await;
        not_found(world.get(8081)).await;
        not_found(world.get(8080).group("PAY")).await;
        if world.kind.keeps_clusters_apart() {
            not_found(world.get(8080).cluster("north")).await;
        }
    })
    .await;
}

#[actix::test]
async fn a_disabled_instance_is_read_by_its_owner_and_by_others_if_the_server_shows_it() {
    everywhere(async |world| {
        world.ask(world.register(8080).enabled(false).weight(2.0)).await;
        let own = world.ask(world.get(8080)).await;
        assert_eq!((own.enabled, own.weight), (false, 2.0));
        match ask(&world.other_owner, world.get(8080)).await {
            Ok(found) => {
                assert!(world.administers);
                assert_eq!((found.enabled, found.weight), (false, 2.0));
            }
            Err(Error::NotFound { may_be_disabled: true, .. }) => {
                assert!(!world.administers);
            }
            other => panic!("{other:?}"),
        }
    })
    .await;
}

// List.

#[actix::test]
async fn a_service_that_does_not_exist_has_no_instances() {
    everywhere(async |world| {
        let info = world.ask(world.list()).await;
        assert!(info.hosts.is_empty());
        assert_eq!((info.name.as_str(), info.group_name.as_str()), (world.service.as_str(), DEFAULT_GROUP));
    })
    .await;
}

#[actix::test]
async fn a_list_has_the_fields_of_nacos_event() {
    everywhere(async |world| {
        world.ask(world.register(8080).group("PAY").cluster("north")).await;
        let list = world.list().group("PAY").clusters(["north"]);
        let info = world.listed_by(list, "it is listed", |hosts| hosts.len() == 1).await;
        assert_eq!((info.name.as_str(), info.group_name.as_str()), (world.service.as_str(), "PAY"));
        assert_eq!(info.clusters, "north");
        assert!(info.cache_millis > 0);
        assert!(!info.all_ips && !info.reach_protection_threshold);
        let json = serde_json::to_value(&info).unwrap();
        for field in ["name", "groupName", "clusters", "cacheMillis", "hosts", "lastRefTime", "checksum", "allIPs"] {
            assert!(json.get(field).is_some(), "{field} in {json}");
        }
    })
    .await;
}

#[actix::test]
async fn lists_are_of_the_clusters_asked_for() {
    everywhere(async |world| {
        for (port, cluster) in [(8080, "north"), (8081, "south"), (8082, "east"), (8083, DEFAULT_CLUSTER)] {
            world.ask(world.register(port).cluster(cluster)).await;
        }
        world.listed("all are listed", |hosts| hosts.len() == 4).await;
        let listed =
            async |clusters: &[&str]| ports_of(&world.ask(world.list().clusters(clusters.to_vec())).await.hosts);
        assert_eq!(listed(&["north"]).await, [8080]);
        assert_eq!(listed(&["south", "north"]).await, [8080, 8081]);
        assert_eq!(listed(&["DEFAULT"]).await, [8083]);
        assert_eq!(listed(&["west"]).await, [0; 0]);
        assert_eq!(listed(&[]).await, [8083, 8082, 8080, 8081], "in the order of the clusters' names");
    })
    .await;
}

#[actix::test]
async fn a_service_has_different_instances_in_different_groups_and_namespaces() {
    everywhere(async |world| {
        world.ask(world.register(8080)).await;
        world.ask(world.register(8081).group("PAY")).await;
        let elsewhere = start(world.config.clone().namespace("conformance"));
        ask(&elsewhere, world.register(8082)).await.unwrap();
        world.listed_ports(&[8080]).await;
        let listed = async |list| world.listed_by(list, "one is listed", |hosts| hosts.len() == 1).await.hosts[0].port;
        assert_eq!(listed(world.list().group("PAY")).await, 8081);
        assert_eq!(listed(world.list().namespace("conformance")).await, 8082);
        let from_elsewhere = ask(&elsewhere, world.list().namespace("public")).await.unwrap();
        assert_eq!(ports_of(&from_elsewhere.hosts), [8080]);
        ask(&elsewhere, Shutdown::default()).await.unwrap();
    })
    .await;
}

#[actix::test]
async fn lists_of_healthy_instances_leave_out_instances_that_do_not_beat() {
    everywhere(async |world| {
        // A beat by hand registers an instance that has no Heartbeat actor.
        let beat = SendHeartbeat::new(&world.service, IP, 8080);
        world.ask(beat.metadata(HEART_BEAT_TIMEOUT, "3000").metadata(IP_DELETE_TIMEOUT, "20000")).await;
        world.ask(world.register(8081)).await;
        world.listed_ports(&[8080, 8081]).await;
        let unhealthy = async || {
            let hosts = world.ask(world.list()).await.hosts;
            hosts.iter().any(|host| host.port == 8080 && !host.healthy).then_some(())
        };
        world.wait_for_the_server("it is unhealthy", unhealthy).await;
        let healthy = world.ask(world.list().healthy_only()).await;
        assert!(!ports_of(&healthy.hosts).contains(&8080), "{healthy:?}");
        let gone = async || {
            let hosts = world.ask(world.list()).await.hosts;
            (!ports_of(&hosts).contains(&8080)).then_some(())
        };
        world.wait_for_the_server("it is removed", gone).await;
    })
    .await;
}

// Beats.

#[actix::test]
async fn a_beat_by_hand_is_accepted_and_answered() {
    everywhere(async |world| {
        world.ask(world.register(8080).weight(2.0)).await;
        let reply = world.ask(SendHeartbeat::new(&world.service, IP, 8080)).await;
        assert_eq!(reply.code, 10200);
        assert!(!reply.is_unknown());
        if world.kind.tells_the_beat_interval() {
            assert_eq!(reply.client_beat_interval, 5000);
        }
        assert_eq!(world.listed_ports(&[8080]).await.hosts[0].weight, 2.0, "a beat changes nothing");
    })
    .await;
}

#[actix::test]
async fn a_beat_by_hand_registers_what_the_server_does_not_know() {
    everywhere(async |world| {
        let beat = SendHeartbeat::new(&world.service, IP, 8080).cluster("north").weight(3.0).metadata("zone", "a");
        world.ask(beat).await;
        let host = world.listed_ports(&[8080]).await.hosts[0].clone();
        assert_eq!(host.cluster_name, "north");
        assert_eq!(host.metadata, metadata(&[("zone", "a")]));
        assert_eq!(host.weight, if world.kind.takes_weights_from_beats() { 3.0 } else { 1.0 });
        world.ask(world.deregister(8080).cluster("north")).await;
    })
    .await;
}

#[actix::test]
async fn beats_for_a_persistent_instance_are_rejected() {
    everywhere(async |world| {
        world.ask(world.register(8080).ephemeral(false)).await;
        for registry in [&world.registry, &world.other_owner] {
            let beat = SendHeartbeat::new(&world.service, IP, 8080).ephemeral(false);
            let refused = ask(registry, beat).await;
            assert!(matches!(refused, Err(Error::InvalidInput { field: "ephemeral", .. })), "{refused:?}");
        }
        let refused = ask(&world.registry, SendHeartbeat::new(&world.service, IP, 8080)).await;
        assert!(matches!(refused, Err(Error::InvalidInput { field: "ephemeral", .. })), "{refused:?}");
    })
    .await;
}

// Subscribe.

#[actix::test]
async fn a_listener_receives_the_first_list_and_every_change() {
    everywhere(async |world| {
        world.ask(world.register(8080).weight(2.0)).await;
        world.listed_ports(&[8080]).await;
        let mut news = News::listen();
        world.ask(Subscribe::new(&world.service, news.recipient())).await;

        let first = news.next().await;
        assert!(first.first && first.source == Source::Poll, "{first:?}");
        assert_eq!((first.service.name.as_str(), first.service.group.as_str()), (&*world.service, DEFAULT_GROUP));
        assert_eq!((listed_ports(&first), ports_of(&first.added)), (vec![8080], vec![8080]));

        world.ask(world.register(8081)).await;
        let added = news.next().await;
        assert!(!added.first && added.changed.is_empty() && added.removed.is_empty(), "{added:?}");
        assert_eq!((listed_ports(&added), ports_of(&added.added)), (vec![8080, 8081], vec![8081]));

        world.ask(world.modify(8080).weight(3.0)).await;
        let changed = news.next().await;
        assert!(changed.added.is_empty() && changed.removed.is_empty(), "{changed:?}");
        let (before, now) = &changed.changed[0];
        assert_eq!((before.port, before.weight, now.weight), (8080, 2.0, 3.0));

        for port in [8080, 8081] {
            world.ask(world.deregister(port)).await;
            let removed = news.next().await;
            assert_eq!(ports_of(&removed.removed), [port], "{removed:?}");
        }
    })
    .await;
}

#[actix::test]
async fn a_subscription_of_clusters_receives_no_change_of_other_clusters() {
    everywhere(async |world| {
        let mut news = News::listen();
        let subscribe = Subscribe::new(&world.service, news.recipient()).group("PAY").clusters(["north"]);
        world.ask(subscribe).await;
        assert!(news.next().await.info.hosts.is_empty());
        world.ask(world.register(8080).group("PAY").cluster("south")).await;
        world.ask(world.register(8081).cluster("north")).await;
        let list = world.list().group("PAY");
        world.listed_by(list, "the other cluster's is listed", |hosts| hosts.len() == 1).await;
        world.ask(world.register(8082).group("PAY").cluster("north")).await;
        let news = news.next().await;
        assert_eq!((ports_of(&news.added), listed_ports(&news)), (vec![8082], vec![8082]));
    })
    .await;
}

#[actix::test]
async fn a_listener_that_unsubscribed_receives_nothing() {
    everywhere(async |world| {
        let (mut leaves, mut stays) = (News::listen(), News::listen());
        let mut all: [News; 2] = [News::listen(), News::listen()];
        for news in [&leaves, &stays].into_iter().chain(&all) {
            world.ask(Subscribe::new(&world.service, news.recipient())).await;
        }
        for news in [&mut leaves, &mut stays].into_iter().chain(&mut all) {
            news.next().await;
        }
        world.ask(Unsubscribe::new(&world.service).listener(leaves.recipient())).await;
        world.ask(Unsubscribe::new(unique("unknown"))).await;
        world.ask(world.register(8080)).await;
        stays.next().await;
        world.ask(Unsubscribe::new(&world.service)).await;
        world.ask(Subscribe::new(&world.service, stays.recipient())).await;
        assert!(stays.next().await.first);
        world.ask(StopSubscribe).await;
        let mut witness = News::listen();
        world.ask(Subscribe::new(&world.service, witness.recipient())).await;
        witness.next().await;
        world.ask(world.deregister(8080)).await;
        witness.until(|news| news.info.hosts.is_empty()).await;
        assert!(leaves.waiting().is_empty() && stays.waiting().is_empty());
        assert!(all.iter_mut().all(|news| news.waiting().len() == 1), "they heard of the one before");
    })
    .await;
}

#[actix::test]
async fn a_view_is_ready_and_stays_current() {
    everywhere(async |world| {
        world.ask(world.register(8080)).await;
        world.listed_ports(&[8080]).await;
        let mut view = world.ask(Discover::new(&world.service)).await;
        view.ready_within(support::PATIENCE).await.unwrap();
        assert_eq!(view.select_one().map(|chosen| chosen.port), Some(8080));
        support::soon("the first list", view.changed()).await.unwrap();
        world.ask(world.register(8080).weight(0.0)).await;
        support::soon("another list", view.changed()).await.unwrap();
        assert!(view.select_one().is_none(), "of weight 0");
        assert_eq!(view.instances().iter().count(), 1);
    })
    .await;
}

// List services, status, shutdown.

#[actix::test]
async fn services_are_listed_in_pages_by_group() {
    everywhere(async |world| {
        let group = unique("GROUP");
        let empty = world.ask(ListServices::new(1, 10).group(&group)).await;
        assert_eq!((empty.count, empty.services.len()), (0, 0));
        let mut names: Vec<_> = (0..5).map(|_| unique("listed")).collect();
        for name in &names {
            world.ask(RegisterInstance::new(name, IP, 8080).group(&group)).await;
        }
        let page = async |number| world.ask(ListServices::new(number, 2).group(&group)).await;
        let all_five = async || Some(page(1).await).filter(|page| page.count == 5);
        eventually("all five are counted", all_five).await;
        let mut found = Vec::new();
        for (number, length) in [(1, 2), (2, 2), (3, 1), (4, 0)] {
            let page = page(number).await;
            assert_eq!((page.count, page.services.len()), (5, length), "page {number}");
            found.extend(page.services);
        }
        found.sort();
        names.sort();
        assert_eq!(found, names, "each once");
    })
    .await;
}

#[actix::test]
async fn the_status_shows_servers_instances_and_subscriptions() {
    everywhere(async |world| {
        world.ask(world.register(8080)).await;
        let mut news = News::listen();
        world.ask(Subscribe::new(&world.service, news.recipient())).await;
        news.next().await;
        let status = world.ask(GetStatus).await;
        let server = &status.servers[0];
        assert!(server.in_use && server.requests >= 2 && server.failures == 0, "{server:?}");
        assert!(server.last_success_ms_ago.is_some());
        let instance = &status.instances[0];
        assert!(instance.registered && instance.ephemeral && instance.instance.port == 8080, "{instance:?}");
        let subscription = &status.subscriptions[0];
        assert_eq!((subscription.listeners, subscription.service.name.as_str()), (1, world.service.as_str()));
        assert!(serde_json::to_value(&status).unwrap()["servers"][0]["address"].is_string());
    })
    .await;
}

#[actix::test]
async fn shutting_down_takes_ephemeral_instances_out_and_leaves_persistent_ones() {
    everywhere(async |world| {
        let persistent = unique("persistent");
        ask(&world.other_owner, world.register(8080)).await.unwrap();
        ask(&world.other_owner, RegisterInstance::new(&persistent, IP, 8081).ephemeral(false)).await.unwrap();
        world.listed_ports(&[8080]).await;
        let report = ask(&world.other_owner, Shutdown::default()).await.unwrap();
        assert_eq!((report.deregistered, report.left, report.failed.len()), (1, 1, 0));
        world.listed_ports(&[]).await;
        let list = ListInstances::new(&persistent);
        world.listed_by(list.clone(), "the persistent one stays", |hosts| hosts.len() == 1).await;
        world.ask(DeregisterInstance::new(&persistent, IP, 8081).ephemeral(false)).await;
        world.listed_by(list, "it is gone", <[_]>::is_empty).await;
    })
    .await;
}

#[actix::test]
async fn shutting_down_takes_persistent_instances_out_when_asked() {
    everywhere(async |world| {
        ask(&world.other_owner, world.register(8080).ephemeral(false)).await.unwrap();
        world.listed_ports(&[8080]).await;
        let report = ask(&world.other_owner, Shutdown::default().persistent_too()).await.unwrap();
        assert_eq!((report.deregistered, report.left), (1, 0));
        world.listed_ports(&[]).await;
        assert_eq!(ask(&world.other_owner, world.list()).await, Err(Error::Stopped));
    })
    .await;
}

// Failures.

#[actix::test]
async fn an_error_names_a_wrong_context_path() {
    everywhere(async |world| {
        let lost = start(world.config.clone().context_path("/elsewhere").request_timeout(ms(1000)));
        let refused = ask(&lost, world.list()).await.unwrap_err();
        assert!(refused.to_string().contains("context path"), "{refused}");
        assert!(!refused.is_retryable());
    })
    .await;
}
