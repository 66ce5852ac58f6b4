//! A new r-nacos, if the program is installed.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

/// gRPC clients expect the gRPC port this far above the HTTP port.
const GRPC_OFFSET: u16 = 1_000;

/// The process ends and its data is removed when this is dropped.
pub(crate) struct Rnacos {
    child: Child,
    data: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Rnacos {
    pub(crate) fn start() -> Option<Self> {
        let port = free_port();
        let data = std::env::temp_dir().join(format!("actix-nacos-peers-{}", std::process::id()));
        let child = Command::new("rnacos")
            .env("RNACOS_HTTP_PORT", port.to_string())
            .env("RNACOS_GRPC_PORT", (port + GRPC_OFFSET).to_string())
            .env("RNACOS_HTTP_CONSOLE_PORT", "0")
            .env("RNACOS_CONFIG_DB_DIR", &data)
            .env("RUST_LOG", "error")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let rnacos = Rnacos { child, data, address: (Ipv4Addr::LOCALHOST, port).into() };
        let listens = (0..100).any(|_| {
            sleep(Duration::from_millis(100));
            TcpStream::connect(rnacos.address).is_ok()
                && TcpStream::connect((Ipv4Addr::LOCALHOST, port + GRPC_OFFSET)).is_ok()
        });
        // r-nacos accepts writes only after it has elected itself as the leader of its one-node cluster.
        sleep(Duration::from_secs(2));
        listens.then_some(rnacos)
    }
}

impl Drop for Rnacos {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

fn free_port() -> u16 {
    let listen = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    loop {
        let port = listen(0).and_then(|listener| listener.local_addr()).map_or(0, |address| address.port());
        if port < u16::MAX - GRPC_OFFSET && port > 0 && listen(port + GRPC_OFFSET).is_ok() {
            return port;
        }
    }
}
