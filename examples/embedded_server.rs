//! A Nacos server for local development: `cargo run --example embedded_server -- --port 8848`.

use std::process::ExitCode;

use actix_nacos::embedded::{EmbeddedServer, EmbeddedServerBuilder};

const HELP: &str = "\
Runs a Nacos server for local development, with a console for the browser at `/`. It keeps everything in memory and
stops on Ctrl-C.

Usage: embedded_server [OPTIONS]

  --port PORT           the port of 127.0.0.1 to listen on, 0 for a free one [8848]
  --dialect DIALECT     the Nacos version to behave like: 1.4, 2.5, 3.0 or 3.2 [2.5]
  --user NAME:PASSWORD  require a login; may be given several times
  --help                print this help";

/// The server that the command line describes; `None` for `--help`.
fn read(mut arguments: impl Iterator<Item = String>) -> Result<Option<EmbeddedServerBuilder>, String> {
    let mut builder = EmbeddedServer::builder().port(8848).console();
    while let Some(option) = arguments.next() {
        if option == "--help" || option == "-h" {
            return Ok(None);
        }
        let (option, value) = match option.split_once('=') {
            Some((option, value)) => (option.to_owned(), Some(value.to_owned())),
            None => (option, arguments.next()),
        };
        let value = value.ok_or_else(|| format!("{option} needs a value"))?;
        builder = match option.as_str() {
            "--port" => builder.port(value.parse().map_err(|_| format!("{value:?} is not a port"))?),
            "--dialect" => builder.dialect(value.parse().map_err(|error| format!("{error}"))?),
            "--user" => {
                let (name, password) = value.split_once(':').ok_or("--user needs NAME:PASSWORD")?;
                builder.user(name, password)
            }
            other => return Err(format!("unknown option {other}")),
        };
    }
    Ok(Some(builder))
}

fn main() -> ExitCode {
    match read(std::env::args().skip(1)) {
        Ok(None) => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Some(builder)) => match builder.start() {
            Ok(server) => serve(server),
            Err(error) => fail(&format!("cannot listen: {error}")),
        },
        Err(mistake) => fail(&format!("{mistake}\n\n{HELP}")),
    }
}

/// Waits for Ctrl-C. The server needs no runtime, but waiting for the signal does.
fn serve(server: EmbeddedServer) -> ExitCode {
    println!("Nacos {} on {}", server.dialect(), server.url());
    println!("a console for the browser on http://{}/", server.address());
    let waited = actix_rt::System::new().block_on(actix_rt::signal::ctrl_c());
    server.stop();
    match waited {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot wait for Ctrl-C: {error}")),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}
