//! r-nacos, which never says that it does not know an instance, is killed and restarted without its data.
#![allow(dead_code, unreachable_pub)]

use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use actix::Addr;
use actix_nacos::{Config, Instance, ListInstances, RegisterInstance, Registry, Subscribe};
use futures_util::future::join_all;

use crate::support::{ask, config_at, eventually, ms, process::Process, shut_down, start, unique, News};

/// The interval in r-nacos' answer to each beat, whatever interval the instance was registered with.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// A running r-nacos with its own data. It ends and the data is removed when this is dropped.
pub struct Rnacos {
    process: Process,
    data: PathBuf,
    /// `host:port` of its HTTP API.
    pub address: String,
}

impl Rnacos {
    /// Starts r-nacos on free ports. Returns when it answers.
    pub async fn start() -> Self {
        let rnacos = Self::start_at(free_ports());
        rnacos.answers().await;
        rnacos
    }

    async fn answers(&self) {
        let observer = observer(&self.address);
        eventually("r-nacos answers", async || ask(&observer, ListInstances::new("orders")).await.ok()).await;
    }

    /// Uses the binary in `RNACOS`, or `rnacos` in `PATH`.
    fn start_at(ports: [u16; 3]) -> Self {
        let data = std::env::temp_dir().join(unique("actix-nacos-rnacos"));
        fs::create_dir_all(&data).expect("a folder");
        let binary = std::env::var_os("RNACOS").unwrap_or_else(|| "rnacos".into());
        let mut command = Command::new(binary);
        command.current_dir(&data).stdout(Stdio::null()).stderr(Stdio::null()).env("RNACOS_CONFIG_DB_DIR", &data);
        for (name, port) in ["HTTP_PORT", "GRPC_PORT", "HTTP_CONSOLE_PORT"].into_iter().zip(ports) {
            command.env(format!("RNACOS_{name}"), port.to_string());
        }
        Rnacos { process: Process::start(&mut command), data, address: format!("127.0.0.1:{}", ports[0]) }
    }
}

impl Drop for Rnacos {
    fn drop(&mut self) {
        // Killed, so that r-nacos writes nothing before its end. An error means that it has ended.
        let _ = self.process.child().kill();
        let _ = self.process.child().wait();
        let _ = fs::remove_dir_all(&self.data);
    }
}

fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

#[derive(Debug)]
pub struct Figures {
    /// The time from the first answer of the new server.
    pub back_after: Duration,
    /// The time from the end of the old server.
    pub out_for: Duration,
}

/// Kills r-nacos and removes its data. Returns the time until all instances are listed with their weights and metadata.
///
/// # Panics
/// When a listener is notified of a removal.
pub async fn killed_and_restarted_without_data(instances: u16, subscriptions: u16) -> Figures {
    let ports = free_ports();
    let server = Rnacos::start_at(ports);
    server.answers().await;
    let observer = observer(&server.address);

    let registry = start(Config::new(&server.address));
    let register = |port: u16| {
        let instance = RegisterInstance::new(service(port % subscriptions), "127.0.0.7", port).weight(weight(port));
        ask(&registry, instance.metadata("port", port.to_string()))
    };
    join_all((1..=instances).map(register)).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    eventually("all are listed", async || all_as_wanted(&observer, instances, subscriptions).await).await;
    let mut news = News::listen();
    for number in 0..subscriptions {
        ask(&registry, Subscribe::new(service(number), news.recipient())).await.unwrap();
        assert!(!news.next().await.info.hosts.is_empty());
    }
    // From the second beat on, beats are light. After two intervals all instances send light beats.
    actix_rt::time::sleep(INTERVAL * 2).await;

    let killed = Instant::now();
    drop(server);
    let server = Rnacos::start_at(ports);
    server.answers().await;
    let answered = Instant::now();
    eventually("all are listed again", async || all_as_wanted(&observer, instances, subscriptions).await).await;
    let figures = Figures { back_after: answered.elapsed(), out_for: killed.elapsed() };

    // Until every list was polled once more: no listener may be notified of a removal or of other values.
    actix_rt::time::sleep(Duration::from_secs(10)).await;
    let told = news.waiting();
    assert!(told.iter().all(|news| news.removed.is_empty() && news.changed.is_empty()), "{told:?}");
    shut_down(&registry).await;
    figures
}

fn service(number: u16) -> String {
    format!("orders-{number}")
}

fn weight(port: u16) -> f64 {
    f64::from(port % 7 + 1)
}

/// A Registry whose lists do not depend on those of the Registry under test.
fn observer(address: &str) -> Addr<Registry> {
    start(config_at(address).operation_timeout(ms(500)))
}

async fn all_as_wanted(observer: &Addr<Registry>, instances: u16, services: u16) -> Option<()> {
    let list = |number| ask(observer, ListInstances::new(service(number)));
    let lists = join_all((0..services).map(list)).await.into_iter().collect::<Result<Vec<_>, _>>().ok()?;
    let as_wanted = |host: &Instance| {
        host.weight == weight(host.port) && host.metadata.get("port") == Some(&host.port.to_string().into())
    };
    let mut hosts = lists.iter().flat_map(|list| &list.hosts);
    let count = hosts.clone().count();
    (count == usize::from(instances) && hosts.all(|host| as_wanted(host))).then_some(())
}
