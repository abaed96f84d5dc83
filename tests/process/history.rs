//! The embedded tier before the judges of the cluster: clients that share their keys, a server that is killed under them, and
//! one history over all its lives.

use std::sync::Arc;

use flotilla_proto::v1;
use flotilla_tests::checker::check;
use flotilla_tests::history::Recorder;
use flotilla_tests::load::{self, Client, Load, Work};
use flotilla_tests::seed::Seed;
use flotilla_tests::server::Server;

const COLLECTION: &str = "shared";
const GROUPS: &str = "groups";
const KILLS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_share_keys_see_one_history_through_kills() {
    let seed = Seed::of("history::");
    let dir = crate::folder();
    let data = dir.path().join("data");
    let settings = crate::small_settings(dir.path());
    let start = || Server::start(crate::binary(), &data, &["--config", &settings]).unwrap();
    let recorder: Arc<Recorder> = Arc::default();
    let work = Work { groups: Some(GROUPS.into()), ..Work::on(COLLECTION) };
    let mut server = start();
    for spec in [load::collection(COLLECTION, 4), load::groups(GROUPS, 3)] {
        let spec = v1::CreateCollectionRequest { spec: Some(spec) };
        server.client().await.unwrap().create(spec).await.unwrap();
    }
    for _ in 0..KILLS {
        let load = Load::start(&recorder, &[server.url()], &seed, &work).await.unwrap();
        load.progress(300, std::time::Duration::from_secs(30)).await.unwrap();
        server.kill9();
        load.stop().await;
        server = start();
    }
    let mut client = Client::new(&recorder, &[server.url()], &seed, &work).await.unwrap();
    client.get_all().await;
    client.scan().await;
    server.terminate().unwrap();
    match check(&recorder.history()) {
        Ok(tally) => println!("{KILLS} kills: {tally}"),
        Err(why) => panic!("{why}"),
    }
}
