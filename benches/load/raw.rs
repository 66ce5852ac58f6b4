//! The lower bound for the costs: the same requests by plain awc, without the work of a registry client.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use actix_rt::time::{interval, sleep};
use awc::Client;
use futures_util::{future::join_all, stream, StreamExt as _};
use serde::Deserialize;

use crate::{
    measure::{Figures, Meter},
    ours::{both, ip, service},
    stub::BEAT_INTERVAL,
    Options, Target, Window, IN_FLIGHT,
};

/// The interval at which a paced loop wakes up.
const TICK: Duration = Duration::from_millis(100);

/// The fields of a list that a minimal client would parse.
#[derive(Deserialize)]
struct List {
    hosts: Vec<Host>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "parsed, and that is what is measured")]
struct Host {
    instance_id: String,
    ip: String,
    port: u16,
    weight: f64,
    healthy: bool,
    enabled: bool,
    ephemeral: bool,
    cluster_name: String,
    service_name: String,
    metadata: BTreeMap<String, String>,
}

pub(crate) fn url(address: SocketAddr, what: &str, number: usize, options: &Options) -> String {
    let (service, ip) = (service(number, options), ip(number + 1));
    format!(
        "http://{address}/nacos/v1/ns/instance{what}?namespaceId=public&groupName=DEFAULT_GROUP\
         &serviceName=DEFAULT_GROUP%40%40{service}&clusterName=DEFAULT&ip={ip}&port=8080&ephemeral=true"
    )
}

pub(crate) fn register_url(address: SocketAddr, number: usize, options: &Options) -> String {
    url(address, "", number, options) + "&weight=1.0&enabled=true&healthy=true&metadata=%7B%7D"
}

fn list_url(address: SocketAddr, number: usize, options: &Options, healthy_only: bool) -> String {
    let service = service(number, options);
    format!(
        "http://{address}/nacos/v1/ns/instance/list?namespaceId=public&groupName=DEFAULT_GROUP\
         &serviceName=DEFAULT_GROUP%40%40{service}&clusters=&healthyOnly={healthy_only}"
    )
}

pub(crate) async fn exchange(request: awc::ClientRequest) {
    request.send().await.expect("an answer").body().await.expect("all of it");
}

async fn list(client: &Client, url: &str) -> usize {
    let mut answer = client.get(url).send().await.expect("an answer");
    let body = answer.body().limit(64 * 1024 * 1024).await.expect("all of it");
    serde_json::from_slice::<List>(&body).expect("a list").hosts.len()
}

/// Sends light beats. Those that are due within the same tenth of a second are sent together.
pub(crate) async fn beats(options: &Options, target: &Target) -> Figures {
    let client = Client::default();
    let urls: Vec<_> = (0..options.instances).map(|number| url(target.address, "/beat", number, options)).collect();
    let ticks = (BEAT_INTERVAL.as_millis() / TICK.as_millis()) as usize;
    let until = Instant::now() + Duration::from_secs_f64(options.seconds);
    let mut ticking = interval(TICK);
    let window = Window::open(target);
    let mut sent = 0;
    for tick in 0.. {
        ticking.tick().await;
        if Instant::now() > until {
            break;
        }
        let due = urls.iter().skip(tick % ticks).step_by(ticks);
        let answers = stream::iter(due).map(|url| exchange(client.put(url))).buffer_unordered(IN_FLIGHT);
        sent += answers.count().await;
    }
    window.close(sent as f64, |counts| counts.beats)
}

pub(crate) async fn lists(options: &Options, target: &Target, changing: bool) -> Figures {
    let client = Client::default();
    let until = Instant::now() + Duration::from_secs_f64(options.seconds);
    let window = Window::open(target);
    let ask = |number| {
        let (client, url) = (&client, list_url(target.address, number, options, changing));
        async move {
            let mut asked = 0;
            while Instant::now() < until {
                asked += usize::from(list(client, &url).await < usize::MAX);
            }
            asked
        }
    };
    let asked: usize = join_all((0..IN_FLIGHT).map(ask)).await.into_iter().sum();
    window.close(asked as f64, |counts| counts.lists)
}

pub(crate) async fn deregister_all(client: &Client, address: SocketAddr, options: &Options) {
    let deregister = |number| exchange(client.delete(url(address, "", number, options)));
    stream::iter(0..options.instances).map(deregister).buffer_unordered(IN_FLIGHT).count().await;
}

pub(crate) async fn register(options: &Options, target: &Target) -> Figures {
    let client = &Client::default();
    let register = |number| exchange(client.post(register_url(target.address, number, options)));
    let registering = Meter::start();
    stream::iter(0..options.instances).map(register).buffer_unordered(IN_FLIGHT).count().await;
    let registering = registering.read();
    let deregistering = Meter::start();
    deregister_all(client, target.address, options).await;
    both(options.instances, registering, deregistering.read())
}

/// Sends and parses one list request per service and second, a tenth of them at each tick.
pub(crate) async fn watch(options: &Options, target: &Target) -> Figures {
    let client = Client::default();
    let urls: Vec<_> = (0..options.services).map(|number| list_url(target.address, number, options, false)).collect();
    let mut ticking = interval(TICK);
    sleep(TICK).await;
    let window = Window::open(target);
    let mut polled = 0;
    for tick in 0..(options.seconds / TICK.as_secs_f64()) as usize {
        ticking.tick().await;
        let due = urls.iter().skip(tick % 10).step_by(10);
        polled += stream::iter(due).map(|url| list(&client, url)).buffer_unordered(IN_FLIGHT).count().await;
    }
    window.close(polled as f64, |counts| counts.lists)
}
