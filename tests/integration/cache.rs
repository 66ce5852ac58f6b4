//! The disk cache: a process that starts during an outage finds the last lists.

use std::{fs, path::Path};

use actix::Addr;
use actix_nacos::{
    embedded::EmbeddedServer, Config, Discover, GetStatus, RegisterInstance, Registry, Source, Subscribe,
};

use crate::support::{
    self, ask, config, listed_ports, ms, registry, server, shut_down, soon, start, until, Folder, News,
};

/// The text of the cached list.
fn text(folder: &Folder) -> String {
    folder.cached_list().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
}

fn caching(server: &EmbeddedServer, folder: &Path) -> Config {
    config(server).cache_dir(folder)
}

/// Leaves a cached list with port 80 in the folder, and stops the server.
async fn after_a_day_at_work(server: &EmbeddedServer, folder: &Folder) -> Addr<Registry> {
    let other = registry(server);
    ask(&other, RegisterInstance::new("orders", "127.0.0.7", 80).weight(3.0)).await.unwrap();
    let registry = start(caching(server, &folder.0));
    let view = ask(&registry, Discover::new("orders")).await.unwrap();
    soon("the list", view.ready()).await.unwrap();
    until("the list is saved", || text(folder).contains("127.0.0.7")).await;
    shut_down(&registry).await;
    server.faults().refuse_connections();
    other
}

#[actix::test]
async fn a_start_during_an_outage_finds_the_last_lists_and_says_that_they_are_stale() {
    let (server, folder) = (server(), Folder::new());
    let other = after_a_day_at_work(&server, &folder).await;

    let registry = start(caching(&server, &folder.0));
    let mut news = News::listen();
    ask(&registry, Subscribe::new("orders", news.recipient())).await.unwrap();
    let told = news.next().await;
    assert_eq!((told.source, told.first, listed_ports(&told)), (Source::Cache, true, vec![80]));
    let mut view = ask(&registry, Discover::new("orders")).await.unwrap();
    soon("a list", view.ready()).await.unwrap();
    assert!(view.is_stale());
    assert_eq!(view.select_one().map(|chosen| chosen.weight), Some(3.0));
    let status = ask(&registry, GetStatus).await.unwrap();
    assert!(status.subscriptions[0].stale && status.subscriptions[0].last_error.is_some(), "{status:?}");

    server.faults().accept_connections();
    ask(&registry, RegisterInstance::new("orders", "127.0.0.7", 81)).await.unwrap();
    let told = news.until(|news| news.info.hosts.len() == 2).await;
    assert_eq!((told.first, listed_ports(&told)), (false, vec![80, 81]));
    while view.instances().len() < 2 {
        soon("the view's turn", view.changed()).await.unwrap();
    }
    until("it is current", || !view.is_stale()).await;
    shut_down(&registry).await;
    shut_down(&other).await;
}

#[actix::test]
async fn the_first_list_from_a_server_replaces_a_list_from_the_disk() {
    let (server, folder) = (server(), Folder::new());
    let other = after_a_day_at_work(&server, &folder).await;
    let registry = start(caching(&server, &folder.0));
    let view = ask(&registry, Discover::new("orders")).await.unwrap();
    soon("a list", view.ready()).await.unwrap();
    // The other Registry ends, so that port 80 is not registered again.
    ask(&other, actix_nacos::Shutdown::default().deadline(ms(1))).await.unwrap();
    server.restart_empty().expect("the same port");
    until("the server is asked", || !view.is_stale()).await;
    assert!(view.instances().is_empty());
    shut_down(&registry).await;
}

#[actix::test]
async fn bad_files_are_ignored_with_one_warning_and_replaced() {
    let (server, folder) = (server(), Folder::new());
    let other = after_a_day_at_work(&server, &folder).await;
    let good = text(&folder);
    for bad in ["", "{", "[]", &good[..good.len() / 2], &good.replace("orders", "others"), "\0\0\0\0"] {
        server.faults().refuse_connections();
        fs::write(folder.cached_list().expect("a file"), bad).unwrap();
        let (logger, log) = support::logs::logger();
        let registry = start(caching(&server, &folder.0).logger(logger));
        let view = ask(&registry, Discover::new("orders")).await.unwrap();
        until("it is said", || log.count("ignored unusable cache file") > 0).await;
        assert!(view.ready_within(ms(100)).await.is_err(), "{bad:?} is no list");
        server.faults().accept_connections();
        soon("the list", view.ready()).await.unwrap();
        let is_good = |text: String| text != bad && text.contains("127.0.0.7");
        until("the file is replaced", || is_good(text(&folder))).await;
        assert_eq!(log.count("ignored unusable cache file"), 1, "{bad:?}: {:?}", log.loud());
        shut_down(&registry).await;
    }
    shut_down(&other).await;
}

#[actix::test]
async fn a_folder_that_cannot_be_written_costs_a_warning_and_nothing_else() {
    let (server, folder) = (server(), Folder::new());
    fs::write(&folder.0, "a file where the folder should be").unwrap();
    let (logger, log) = support::logs::logger();
    let registry = start(caching(&server, &folder.0).logger(logger));
    ask(&registry, RegisterInstance::new("orders", "127.0.0.7", 80)).await.unwrap();
    let view = ask(&registry, Discover::new("orders")).await.unwrap();
    soon("the list", view.ready()).await.unwrap();
    until("it is said", || log.count("failed to write cache file") == 1).await;
    shut_down(&registry).await;
    fs::remove_file(&folder.0).unwrap();
}
