//! One function per client and kind of work. Each runs in its own process.

use std::{
    collections::HashMap,
    future::Future,
    time::{Duration, Instant},
};

use actix_nacos::{Config, ListInstances, RegisterInstance, Registry};
use futures_util::{future::join_all, stream, StreamExt};
use nacos_rust_client::client::naming_client::{Instance as RustClientInstance, NamingClient};
use nacos_sdk::api::{
    naming::{NamingService, NamingServiceBuilder, ServiceInstance},
    props::ClientProps,
};

use crate::{measure, measure::Figures, stub::BEAT_INTERVAL, Options, Window, IN_FLIGHT, SERVICES};

/// The time until every instance has beaten. A short run does not wait for that.
fn warm_up(options: &Options) -> Duration {
    Duration::from_secs_f64(options.seconds * 3.0).min(BEAT_INTERVAL + Duration::from_millis(600))
}

const TICK: Duration = Duration::from_millis(100);

fn service(number: usize) -> String {
    format!("orders-{}", number % SERVICES)
}

fn ip(number: usize) -> String {
    format!("127.0.{}.{}", number / 250, number % 250 + 1)
}

fn beat_url(options: &Options, number: usize) -> String {
    format!(
        "http://{}/nacos/v1/ns/instance/beat?namespaceId=public&groupName=DEFAULT_GROUP\
         &serviceName=DEFAULT_GROUP%40%40{}&clusterName=DEFAULT&ip={}&port=8080&ephemeral=true",
        options.address(),
        service(number),
        ip(number)
    )
}

fn list_url(options: &Options, number: usize) -> String {
    format!(
        "http://{}/nacos/v1/ns/instance/list?namespaceId=public&groupName=DEFAULT_GROUP\
         &serviceName=DEFAULT_GROUP%40%40{}&clusters=&healthyOnly=false",
        options.address(),
        service(number)
    )
}

/// Measures registered instances without any other requests.
async fn keep(options: &Options, registered: impl Future<Output = ()>) -> Figures {
    registered.await;
    actix_rt::time::sleep(warm_up(options)).await;
    let window = Window::open(options);
    actix_rt::time::sleep(Duration::from_secs_f64(options.seconds)).await;
    window.close(options.instances as f64 * options.seconds / BEAT_INTERVAL.as_secs_f64())
}

/// Calls `one` with [`IN_FLIGHT`] calls at a time until the time is over.
async fn saturate<F: Future<Output = ()>>(options: &Options, one: impl Fn(usize) -> F) -> Figures {
    // The first calls open connections and detect the server's protocol, so they are not counted.
    join_all((0..IN_FLIGHT).map(&one)).await;
    let until = Instant::now() + Duration::from_secs_f64(options.seconds);
    let window = Window::open(options);
    let ask = |number| {
        let one = &one;
        async move {
            let mut asked = 0;
            while Instant::now() < until {
                one(number).await;
                asked += 1;
            }
            asked
        }
    };
    let asked: usize = join_all((0..IN_FLIGHT).map(ask)).await.into_iter().sum();
    window.close(asked as f64)
}

/// Sends light beats by a bare HTTP client. Those that are due within the same tenth of a second are sent together.
async fn pace<F: Future<Output = ()>>(options: &Options, beat: impl Fn(String) -> F) -> Figures {
    let urls: Vec<_> = (0..options.instances).map(|number| beat_url(options, number)).collect();
    let ticks = (BEAT_INTERVAL.as_millis() / TICK.as_millis()) as usize;
    let until = Instant::now() + Duration::from_secs_f64(options.seconds);
    let mut ticking = actix_rt::time::interval(TICK);
    let window = Window::open(options);
    let mut sent = 0;
    for tick in 0.. {
        ticking.tick().await;
        if Instant::now() > until {
            break;
        }
        let due = urls.iter().skip(tick % ticks).step_by(ticks).cloned();
        sent += stream::iter(due).map(&beat).buffer_unordered(IN_FLIGHT).count().await;
    }
    window.close(sent as f64)
}

pub(crate) fn ours(options: &Options) -> Figures {
    actix_rt::System::new().block_on(async {
        let registry = Registry::start(Config::new(options.address())).expect("it starts");
        let register = |number| registry.send(RegisterInstance::new(service(number), ip(number), 8080));
        let register_all = async {
            let answers = stream::iter(0..options.instances).map(register).buffer_unordered(IN_FLIGHT);
            answers.for_each(|answer| async { drop(answer.expect("it lives").expect("registered")) }).await;
        };
        match options.work.as_str() {
            "beats" => keep(options, register_all).await,
            _ => {
                register_all.await;
                saturate(options, |number| {
                    let answer = registry.send(ListInstances::new(service(number)));
                    async { drop(answer.await.expect("it lives").expect("a list")) }
                })
                .await
            }
        }
    })
}

/// nacos_rust_client does not say when a registration is done, and it lists from a cache. So only beats are compared.
pub(crate) fn nacos_rust_client(options: &Options) -> Figures {
    let client = NamingClient::new_with_addrs(&options.address(), "public".into(), None);
    actix_rt::System::new().block_on(async {
        let register = async {
            for number in 0..options.instances {
                client.register(RustClientInstance::new_simple(&ip(number), 8080, &service(number), "DEFAULT_GROUP"));
            }
        };
        keep(options, register).await
    })
}

/// nacos-sdk uses gRPC: instances live as long as the connection, which is checked once in 5 s.
pub(crate) fn nacos_sdk(options: &Options) -> Figures {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let properties = ClientProps::new().server_addr(options.address()).namespace("public").app_name("peers");
        let naming = NamingServiceBuilder::new(properties).build().await.expect("it connects");
        match options.work.as_str() {
            "beats" => keep(options, register_by_sdk(&naming, options.instances)).await,
            _ => {
                register_by_sdk(&naming, options.instances).await;
                let group = || Some("DEFAULT_GROUP".to_owned());
                saturate(options, |number| {
                    let answer = naming.get_all_instances(service(number), group(), Vec::new(), false);
                    async { drop(answer.await.expect("a list")) }
                })
                .await
            }
        }
    })
}

/// Each connection registers one batch per service.
async fn register_by_sdk(naming: &NamingService, instances: usize) {
    for place in 0..SERVICES.min(instances) {
        let instance = |number| ServiceInstance {
            ip: ip(number),
            port: 8080,
            cluster_name: Some("DEFAULT".into()),
            metadata: HashMap::new(),
            ..ServiceInstance::default()
        };
        let batch = (place..instances).step_by(SERVICES).map(instance).collect();
        let registered = naming.batch_register_instance(service(place), Some("DEFAULT_GROUP".into()), batch).await;
        registered.expect("registered");
    }
}

/// The lower bounds: plain HTTP clients.
pub(crate) fn reqwest(options: &Options) -> Figures {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = reqwest::Client::new();
    runtime.block_on(async {
        match options.work.as_str() {
            "beats" => {
                pace(options, |url| async { drop(client.put(url).send().await.expect("an answer").bytes().await) })
                    .await
            }
            _ => {
                saturate(options, |number| {
                    let request = client.get(list_url(options, number));
                    async {
                        let answer = request.send().await.expect("an answer");
                        parse(&answer.bytes().await.expect("all of it"));
                    }
                })
                .await
            }
        }
    })
}

fn parse(body: &[u8]) {
    let list: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    assert!(list["hosts"].is_array());
}

pub(crate) fn awc(options: &Options) -> Figures {
    actix_rt::System::new().block_on(async {
        let client = awc::Client::default();
        match options.work.as_str() {
            "beats" => {
                pace(options, |url| async { drop(client.put(url).send().await.expect("an answer").body().await) }).await
            }
            _ => {
                saturate(options, |number| {
                    let request = client.get(list_url(options, number));
                    async {
                        let mut answer = request.send().await.expect("an answer");
                        let body = answer.body().limit(64 * 1024 * 1024).await.expect("all of it");
                        parse(&body);
                    }
                })
                .await
            }
        }
    })
}

pub(crate) fn run(options: &Options) {
    let figures = match options.client.as_str() {
        "ours" => ours(options),
        "nacos_rust_client" => nacos_rust_client(options),
        "nacos-sdk" => nacos_sdk(options),
        "reqwest" => reqwest(options),
        "awc" => awc(options),
        other => panic!("no client {other}"),
    };
    measure::hand_back(&figures);
    std::process::exit(0)
}
