//! Changes in quick succession, on servers that show each change only after half a second.

use actix::Addr;
use actix_nacos::{
    embedded::{Dialect, EmbeddedServer},
    DeregisterInstance, Error, GetInstance, Instance, Metadata, ModifyInstance, Operation, RegisterInstance, Registry,
    SendHeartbeat,
};

use crate::support::{ask, config, config_at, eventually, in_use, only_instance, servers, shut_down, start, until, IP};

fn register(port: u16) -> RegisterInstance {
    RegisterInstance::new("orders", IP, port)
}

fn modify(port: u16) -> ModifyInstance {
    ModifyInstance::new("orders", IP, port)
}

fn metadata(pairs: &[(&str, &str)]) -> Metadata {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

async fn get(registry: &Addr<Registry>, port: u16) -> Result<Instance, Error> {
    ask(registry, GetInstance::new("orders", IP, port)).await
}

/// A server that shows changes as late as the original, the owner of the instances, and an operator.
struct World {
    server: EmbeddedServer,
    owner: Addr<Registry>,
    operator: Addr<Registry>,
}

impl World {
    fn new(dialect: Dialect) -> Self {
        let server = EmbeddedServer::builder().dialect(dialect).user("nacos", "nacos").start().unwrap();
        let config = config(&server).credentials("nacos", "nacos");
        World { server, owner: start(config.clone()), operator: start(config) }
    }

    /// Registers an instance, and waits until the server shows it.
    async fn registered(&self, instance: RegisterInstance, port: u16) {
        ask(&self.owner, instance).await.unwrap();
        eventually("the instance shows", async || get(&self.operator, port).await.ok()).await;
    }

    /// Returns the values that the server has, whatever it shows.
    fn at(&self, port: u16) -> (f64, bool, Metadata) {
        let found = self.server.instances("orders").into_iter().find(|instance| instance.port == port);
        let found = found.expect("it is registered");
        (found.weight, found.enabled, found.metadata)
    }

    async fn close(self) {
        shut_down(&self.owner).await;
        shut_down(&self.operator).await;
    }
}

fn values(instance: Instance) -> (f64, bool, Metadata) {
    (instance.weight, instance.enabled, instance.metadata)
}

#[actix::test]
async fn changes_of_anothers_instance_in_quick_succession_all_take_effect() {
    for dialect in Dialect::all() {
        let world = World::new(dialect);
        world.registered(register(80).weight(2.0).metadata("a", "1"), 80).await;
        let expected = (3.0, false, metadata(&[("a", "1"), ("b", "2")]));
        for change in [modify(80).weight(3.0), modify(80).metadata("b", "2"), modify(80).enabled(false)] {
            ask(&world.operator, change).await.unwrap();
        }
        ask(&world.operator, modify(80).metadata("c", "3")).await.unwrap();
        ask(&world.operator, modify(80).without_metadata("c")).await.unwrap();
        assert_eq!(world.at(80), expected, "on the server, {dialect}");
        assert_eq!(get(&world.operator, 80).await.map(values), Ok(expected), "as it is told, {dialect}");
        world.close().await;
    }
}

#[actix::test]
async fn changes_of_an_own_instance_in_quick_succession_all_take_effect() {
    for dialect in Dialect::all() {
        let world = World::new(dialect);
        world.registered(register(80).weight(2.0).metadata("a", "1"), 80).await;
        ask(&world.owner, register(80).weight(5.0).metadata("b", "2")).await.unwrap();
        assert_eq!(get(&world.owner, 80).await.unwrap().weight, 5.0, "registered again, {dialect}");
        ask(&world.owner, modify(80).metadata("c", "3")).await.unwrap();
        ask(&world.owner, modify(80).enabled(false)).await.unwrap();
        ask(&world.owner, modify(80).without_metadata("b")).await.unwrap();
        let expected = (5.0, false, metadata(&[("c", "3")]));
        assert_eq!(world.at(80), expected, "on the server, {dialect}");
        assert_eq!(get(&world.owner, 80).await.map(values), Ok(expected), "as it is told, {dialect}");
        world.close().await;
    }
}

#[actix::test]
async fn an_instance_is_read_as_soon_as_it_is_registered_and_not_once_it_is_deregistered() {
    for dialect in Dialect::all() {
        let world = World::new(dialect);
        // After the first list of the service, lists show changes late.
        world.registered(register(80), 80).await;
        ask(&world.owner, register(81).weight(2.0)).await.unwrap();
        assert_eq!(get(&world.owner, 81).await.unwrap().weight, 2.0, "{dialect}");
        for (registry, port) in [(&world.owner, 81), (&world.operator, 80)] {
            ask(registry, DeregisterInstance::new("orders", IP, port)).await.unwrap();
            let gone = get(registry, port).await;
            assert!(matches!(gone, Err(Error::NotFound { .. })), "{dialect}: {gone:?}");
            let change = ask(registry, modify(port).weight(3.0)).await;
            assert!(matches!(change, Err(Error::NotFound { .. })), "{dialect}: {change:?}");
        }
        ask(&world.owner, register(81).weight(4.0)).await.unwrap();
        assert_eq!(get(&world.owner, 81).await.unwrap().weight, 4.0, "registered once more, {dialect}");
        ask(&world.operator, SendHeartbeat::new("orders", IP, 80)).await.unwrap();
        assert_eq!(get(&world.operator, 80).await.map(|found| found.port), Ok(80), "by a beat, {dialect}");
        world.close().await;
    }
}

#[actix::test]
async fn later_changes_by_others_are_shown_and_kept() {
    let world = World::new(Dialect::V2_5);
    world.registered(register(80).weight(2.0), 80).await;
    ask(&world.operator, modify(80).metadata("a", "1")).await.unwrap();
    let other = start(config(&world.server).credentials("nacos", "nacos"));
    let sees_it = async || get(&other, 80).await.ok().filter(|found| found.metadata.contains_key("a"));
    eventually("the other operator sees the change", sees_it).await;
    ask(&other, modify(80).weight(7.0)).await.unwrap();
    let is_told = async || get(&world.operator, 80).await.ok().filter(|found| found.weight == 7.0);
    eventually("the other operator's change is told", is_told).await;
    ask(&world.operator, modify(80).metadata("b", "2")).await.unwrap();
    assert_eq!(world.at(80), (7.0, true, metadata(&[("a", "1"), ("b", "2")])));
    shut_down(&other).await;
    world.close().await;
}

/// Two servers that know nothing of each other, as a node that has just restarted. The instance is registered at the one
/// in use; gives its index.
async fn registered_at_one_of_two() -> (Vec<EmbeddedServer>, Addr<Registry>, usize) {
    let (servers, addresses) = servers(2);
    let owner = start(config_at(&addresses));
    ask(&owner, register(1).heartbeat_interval(std::time::Duration::from_secs(1))).await.unwrap();
    let used = in_use(&owner, &servers).await.address();
    let used = servers.iter().position(|server| server.address() == used).unwrap();
    (servers, owner, used)
}

#[actix::test]
async fn an_instance_that_one_server_shows_and_another_does_not_list_is_not_taken_for_disabled() {
    let (servers, owner, used) = registered_at_one_of_two().await;
    let (used, other) = (&servers[used], &servers[1 - used]);
    let neighbour = start(config(other));
    ask(&neighbour, register(1)).await.unwrap();
    // Beats would bring it back to the server in use.
    used.faults().only_for(&[Operation::Get, Operation::Beat]);
    used.faults().fail_share(1.0, 503);
    used.faults().forget_instance("orders", IP, 1);

    ask(&owner, modify(1).weight(5.0)).await.unwrap();
    used.faults().clear();
    let found = only_instance(used, "orders");
    assert_eq!((found.weight, found.enabled), (5.0, true));
    shut_down(&neighbour).await;
    shut_down(&owner).await;
}

#[actix::test]
async fn a_change_that_another_server_has_taken_reaches_the_server_in_use() {
    let (servers, owner, used) = registered_at_one_of_two().await;
    let (used, other) = (&servers[used], &servers[1 - used]);
    used.faults().only_for(&[Operation::Register]);
    used.faults().fail_share(1.0, 503);
    ask(&owner, modify(1).weight(5.0)).await.unwrap();
    assert_eq!((only_instance(used, "orders").weight, only_instance(other, "orders").weight), (1.0, 5.0));
    used.faults().clear();
    until("the server in use has it too", || only_instance(used, "orders").weight == 5.0).await;
    shut_down(&owner).await;
}

#[actix::test]
async fn the_server_in_use_keeps_an_instance_whose_change_only_another_server_takes() {
    let (servers, owner, used) = registered_at_one_of_two().await;
    let used = &servers[used];
    used.faults().only_for(&[Operation::Register]);
    used.faults().fail_share(1.0, 503);
    ask(&owner, modify(1).weight(5.0)).await.unwrap();
    let (mut last, mut beats) = (std::time::Duration::ZERO, 0);
    until("beats go on at the server in use", || {
        let since = only_instance(used, "orders").since_last_beat;
        beats += u32::from(since < last);
        last = since;
        beats == 3
    })
    .await;
    shut_down(&owner).await;
}
