//! Choosing instances through a Registry: the settings of `Discover`, ejections in the status and in messages,
//! `Choose`.

use std::time::Duration;

use actix::prelude::*;
use actix_nacos::{
    embedded::EmbeddedServer, Choose, Config, DeregisterInstance, Discover, Eject, EjectionChanged, Error, GetStatus,
    Policy, RegisterInstance, Registry, ServiceView, UnwatchEjections, WatchEjections,
};
use actix_rt::time::timeout;
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(30);

/// A Registry with instances of `orders` at these ports. Those above 90 are in the cluster EAST.
async fn with_instances(ports: &[u16]) -> (EmbeddedServer, Addr<Registry>) {
    let nacos = EmbeddedServer::start().unwrap();
    let registry = Registry::start(Config::new(nacos.server_address())).unwrap();
    for port in ports {
        let cluster = if *port > 90 { "EAST" } else { "DEFAULT" };
        registry.send(RegisterInstance::new("orders", "127.0.0.7", *port).cluster(cluster)).await.unwrap().unwrap();
    }
    (nacos, registry)
}

/// Waits until the view lists `count` instances.
async fn lists(view: &mut ServiceView, count: usize) {
    let listed = async {
        while view.instances().len() != count {
            view.changed().await.unwrap();
        }
    };
    timeout(LIMIT, listed).await.unwrap();
}

struct Listener(mpsc::UnboundedSender<EjectionChanged>);

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<EjectionChanged> for Listener {
    type Result = ();

    fn handle(&mut self, change: EjectionChanged, _: &mut Context<Self>) {
        let _ = self.0.send(change);
    }
}

#[actix::test]
async fn an_ejection_is_shown_in_the_status_and_watchers_are_notified() {
    let (_nacos, registry) = with_instances(&[80, 81, 82]).await;
    let (told_tx, mut told) = mpsc::unbounded_channel();
    let listener = Listener(told_tx).start();
    registry.send(WatchEjections::new(listener.clone().recipient())).await.unwrap().unwrap();
    let eject = Eject::consecutive(2).base(Duration::from_millis(200));
    let mut view = registry.send(Discover::new("orders").eject(eject)).await.unwrap().unwrap();
    lists(&mut view, 3).await;
    // A view with other filters shares the ejections.
    let other = registry.send(Discover::new("orders").only_cluster("DEFAULT")).await.unwrap().unwrap();

    let victim = view.begin().unwrap().port;
    let call = |view: &ServiceView| (0..1000).map(|_| view.begin().unwrap()).find(|call| call.port == victim);
    (0..2).for_each(|_| call(&view).unwrap().failed());

    let change = timeout(LIMIT, told.recv()).await.unwrap().unwrap();
    assert_eq!((change.instance.port, change.ejected_for), (victim, Some(Duration::from_millis(200))));
    let status = registry.send(GetStatus).await.unwrap().unwrap();
    assert_eq!(status.ejections.len(), 1);
    assert_eq!((status.ejections[0].instance.port, status.ejections[0].times), (victim, 1));
    assert_eq!(other.ejected().len(), 1);

    let probed = async {
        loop {
            if let Some(probe) = call(&other) {
                break probe.succeeded();
            }
            actix_rt::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, probed).await.unwrap();
    let change = timeout(LIMIT, told.recv()).await.unwrap().unwrap();
    assert_eq!((change.instance.port, change.ejected_for), (victim, None));
    assert!(registry.send(GetStatus).await.unwrap().unwrap().ejections.is_empty());

    registry.send(UnwatchEjections::new(listener.recipient())).await.unwrap().unwrap();
    (0..2).for_each(|_| call(&view).unwrap().failed());
    assert_eq!(timeout(LIMIT, told.recv()).await.unwrap(), None, "the listener ends, since nobody keeps it");
}

#[actix::test]
async fn discover_takes_preferences_filters_and_a_policy() {
    let (_nacos, registry) = with_instances(&[80, 91, 92]).await;
    let east = Discover::new("orders").prefer_cluster("EAST").policy(Policy::WeightedRoundRobin);
    let mut east = registry.send(east).await.unwrap().unwrap();
    lists(&mut east, 3).await;
    let ports: Vec<_> = (0..4).map(|_| east.begin().unwrap().port).collect();
    assert!(ports[0] > 90 && ports[1] > 90 && ports[0] != ports[1] && ports[..2] == ports[2..], "{ports:?}");

    let odd = registry.send(Discover::new("orders").only(|instance| instance.port == 91)).await.unwrap().unwrap();
    assert_eq!((odd.instances().len(), odd.begin().unwrap().port), (1, 91));
    let tried = [odd.begin().unwrap().instance().clone()];
    assert_eq!(odd.begin_excluding(&tried).unwrap().port, 91, "rather than one that is filtered out");
}

#[actix::test]
async fn a_message_chooses_an_instance() {
    let (_nacos, registry) = with_instances(&[80, 91]).await;
    for _ in 0..10 {
        let chosen = registry.send(Choose::new("orders").prefer_cluster("EAST")).await.unwrap().unwrap();
        assert_eq!(chosen.port, 91);
    }
    registry.send(DeregisterInstance::new("orders", "127.0.0.7", 91).cluster("EAST")).await.unwrap().unwrap();
    let fallen_back = async {
        while registry.send(Choose::new("orders").prefer_cluster("EAST")).await.unwrap().unwrap().port != 80 {
            actix_rt::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, fallen_back).await.unwrap();
    let nobody = registry.send(Choose::new("nobody").within(Duration::from_millis(50))).await.unwrap();
    let Err(Error::NoInstance { service, listed: 0, .. }) = nobody else { panic!("{nobody:?}") };
    assert_eq!(service, "DEFAULT_GROUP@@nobody");
    let watched = registry.send(GetStatus).await.unwrap().unwrap().subscriptions;
    assert_eq!(watched.len(), 2, "one subscription for each service");
}
