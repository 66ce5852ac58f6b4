//! Messages can be made from the instances in lists, changes and statuses, with their group and cluster.

use actix_nacos::{
    DeregisterInstance, Discover, Error, GetInstance, GetStatus, Instance, InstanceKey, ListInstances, ListServices,
    ModifyInstance, RegisterInstance, SendHeartbeat, ServiceName, Subscribe, Unsubscribe,
};

use crate::support::{
    self, ask, config_at,
    fake::{Answer, Fake},
    registry, server, shut_down, soon, start, until, News, IP,
};

/// An instance in a group and a cluster that are not the defaults.
fn east(port: u16) -> RegisterInstance {
    RegisterInstance::new("orders", IP, port).group("SHOP").cluster("EAST").weight(2.0).metadata("zone", "a")
}

#[actix::test]
async fn an_instance_key_of_the_status_names_the_same_instance_in_every_message() {
    let server = server();
    let registry = registry(&server);
    ask(&registry, east(80)).await.unwrap();
    let key = ask(&registry, GetStatus).await.unwrap().instances[0].instance.clone();

    ask(&registry, ModifyInstance::from(&key).weight(3.0)).await.unwrap();
    assert_eq!(ask(&registry, GetInstance::from(&key)).await.unwrap().weight, 3.0);
    assert_eq!(ask(&registry, SendHeartbeat::from(&key)).await.unwrap().code, 10200);
    ask(&registry, RegisterInstance::from(&key).weight(4.0)).await.unwrap();
    let listed = ask(&registry, ListInstances::new(&key.service).clusters([key.cluster.as_str()])).await.unwrap();
    assert_eq!(listed.hosts[0].weight, 4.0);
    ask(&registry, DeregisterInstance::from(key)).await.unwrap();
    assert!(server.instances("SHOP@@orders").is_empty());
    shut_down(&registry).await;
}

#[actix::test]
async fn an_instance_of_a_change_goes_into_every_message_with_its_values() {
    let server = server();
    let (owner, other) = (registry(&server), registry(&server));
    ask(&owner, east(80)).await.unwrap();
    let mut news = News::listen();
    ask(&other, Subscribe::new("SHOP@@orders", news.recipient())).await.unwrap();
    let told = news.until(|news| news.info.hosts.len() == 1).await;
    let instance = &told.added[0];

    assert_eq!(InstanceKey::from(&**instance).to_string(), "127.0.0.7:80 of SHOP@@orders (cluster EAST)");
    ask(&other, ModifyInstance::from(instance).metadata("note", "b")).await.unwrap();
    let now = ask(&other, GetInstance::from(instance)).await.unwrap();
    assert_eq!((now.weight, now.metadata["note"].as_str()), (2.0, "b"));
    shut_down(&owner).await;

    ask(&other, RegisterInstance::from(instance.clone())).await.unwrap();
    let [registered] = &server.instances("SHOP@@orders")[..] else { panic!("it is not there") };
    assert_eq!((registered.weight, registered.cluster.as_str()), (2.0, "EAST"));
    assert_eq!(registered.metadata["zone"], "a");
    ask(&other, DeregisterInstance::from(&**instance)).await.unwrap();
    assert!(server.instances("SHOP@@orders").is_empty());
    shut_down(&other).await;
}

#[actix::test]
async fn a_service_name_keeps_its_group_in_every_message_that_names_a_service() {
    let server = server();
    let registry = registry(&server);
    ask(&registry, east(80)).await.unwrap();
    let services = ask(&registry, ListServices::new(1, 10).group("SHOP")).await.unwrap();
    let [orders]: [ServiceName; 1] = services.names().collect::<Vec<_>>().try_into().unwrap();

    assert_eq!(ask(&registry, ListInstances::new(&orders)).await.unwrap().hosts.len(), 1);
    let view = ask(&registry, Discover::new(&orders)).await.unwrap();
    soon("a list", view.ready()).await.unwrap();
    assert_eq!(ask(&registry, ListInstances::new(view.service())).await.unwrap().hosts.len(), 1);
    let mut news = News::listen();
    ask(&registry, Subscribe::new(&orders, news.recipient())).await.unwrap();
    let told = news.until(|news| news.info.hosts.len() == 1).await;
    ask(&registry, Unsubscribe::new(&told.service)).await.unwrap();
    let unsubscribed = async || ask(&registry, GetStatus).await.unwrap().subscriptions[0].listeners == 0;
    support::eventually("nobody listens", async || unsubscribed().await.then_some(())).await;
    ask(&registry, RegisterInstance::new(told.info.service(), IP, 81)).await.unwrap();
    until("both are there", || server.instances("SHOP@@orders").len() == 2).await;

    match ask(&registry, ListInstances::new(&orders).group("OTHER")).await {
        Err(Error::InvalidInput { field: "service", reason }) => assert!(reason.contains("another group"), "{reason}"),
        other => panic!("{other:?}"),
    }
    shut_down(&registry).await;
}

/// Servers accept instances that cannot be called. An application that finds one in a list must be able to deregister
/// it.
#[actix::test]
async fn a_listed_instance_that_cannot_be_called_can_be_deregistered() {
    let fake = Fake::start(|seen| match seen.path() {
        "/nacos/v1/ns/instance/list" => Answer::json(r#"{"hosts":[{"ip":"0.0.0.0","port":0,"ephemeral":false}]}"#),
        _ => Answer::usual(seen),
    });
    let registry = start(config_at(&fake.server_address()).protocol(actix_nacos::Protocol::V1));
    let listed = ask(&registry, ListInstances::new("PAY@@consumers")).await.unwrap();
    ask(&registry, DeregisterInstance::from(&listed.hosts[0])).await.unwrap();
    let seen = fake.seen();
    let asked = seen.iter().find(|seen| seen.method == "DELETE").expect("it was asked to deregister");
    assert_eq!((asked.parameter("ip"), asked.parameter("port")), (Some("0.0.0.0"), Some("0")));
    assert_eq!((asked.parameter("groupName"), asked.parameter("ephemeral")), (Some("PAY"), Some("false")));
    match ask(&registry, RegisterInstance::from(&listed.hosts[0])).await {
        Err(Error::InvalidInput { field: "ip", .. }) => {}
        other => panic!("{other:?}"),
    }
    shut_down(&registry).await;
}

#[actix::test]
async fn an_instance_without_a_service_is_rejected() {
    let server = server();
    let registry = registry(&server);
    match ask(&registry, RegisterInstance::from(Instance::new(IP, 80))).await {
        Err(Error::InvalidInput { field: "service", .. }) => {}
        other => panic!("{other:?}"),
    }
    let mut named = Instance::new(IP, 80);
    named.service_name = "SHOP@@orders".into();
    ask(&registry, RegisterInstance::from(named)).await.unwrap();
    assert_eq!(server.instances("SHOP@@orders").len(), 1);
    shut_down(&registry).await;
}
