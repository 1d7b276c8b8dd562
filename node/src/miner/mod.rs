//! The miner's process: the miner machine with engines, content and peers around it.

mod capacity;
mod diary;
mod engines;
mod hours;
mod look;
mod pace;
mod pause;
mod power;
mod shell;
mod story;
mod streams;
mod work;

use crate::cli::NodeArgs;
use crate::clock::Clock;
use crate::daemon::{self, Daemon, Mirroring};
use crate::devices::Device;
use crate::driver::{self, Input, MAX_INBOX};
use crate::home::{data_dir, join_terms, network_config, wallet};
use crate::import;
use crate::link::{Heard, Link};
use crate::metrics::{DeviceSource, Exporter, MinerMetrics, Server};
use crate::models::Shelf;
use crate::network::{Network, NetworkEvent};
use crate::providers::Providers;
use crate::session::join;
use crate::socket::Answering;
use crate::status;
use crate::storage::home::DataDir;
use crate::upkeep;
use crate::view::{EVIDENCE_FOLDER, LiveView};
use crate::workload::Models;
use anyhow::Result;
pub use diary::{Diary, Entry};
use engines::{Engines, warn_of_slow_formats};
pub use hours::Hours;
pub use pace::Pace;
pub use pause::{Order, tell};
use power::{Limit, Power};
use shell::MinerShell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use streams::Streams;
use swarm_protocol::Millis;
use swarm_protocol::miner::{Event, Miner};
use swarm_protocol::statement::Verified;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Pages of the view that a miner reads in one go, and how long it waits before the next: there may be thousands.
const MAX_VIEW_PAGES: usize = 16;
const VIEW_INTERVAL: Duration = Duration::from_secs(600);
/// How long running jobs may take once the miner is told to stop.
const DRAIN_GRACE: Millis = Millis::from_secs(10);
/// In a miner's folder: what runs its models, and where.
const PROVIDERS_FILE: &str = "providers.json";

/// Runs a miner until it is told to stop and has drained.
pub async fn run(args: NodeArgs, stop: CancellationToken) -> Result<()> {
    let miner = args.miner.clone();
    // An engine program is asked what it computes on, which takes a GPU's driver a while.
    let providers = tokio::task::spawn_blocking(move || Providers::of(&miner)).await??;
    run_with(args, &providers, stop).await
}

/// The same with the engines of other providers.
pub async fn run_with(args: NodeArgs, providers: &Providers, stop: CancellationToken) -> Result<()> {
    let directory = data_dir(&args.files, &args.pool.pool, "miner", args.data_name())?;
    let key = wallet(&args.files, &directory)?;
    let clock = Clock::start();
    let models = Arc::new(Models::load(&args.models)?);
    models.too_wide().for_each(|wide| tracing::warn!("{wide}: pools that audit do not take it"));
    let daemon = Daemon::open(args.ipfs_api.as_deref()).await?;
    let watching = CancellationToken::new();
    let _ends = watching.clone().drop_guard();
    let (_limited, power) = power(args.miner.power_limit, &providers.devices, watching.clone()).await?;
    let slots = capacity::slots(&args.miner, providers);
    let Some(engines) = start_engines(&models, slots, providers, power, &stop).await? else {
        return Ok(());
    };
    let _listed = providers.list(directory.file(PROVIDERS_FILE))?;
    let blocks = upkeep::open(&args.content, &directory.file("blocks.redb"), clock, stop.clone())?;
    import::archives(&args.import, &blocks).await?;
    let network = network_config(&args.network, &directory, &args.pool.pool, "miner", "miner")?;
    let source = Shelf::over(daemon::source(daemon.as_ref(), &blocks), &args.models);
    let (network, mut events) = Network::start(args.limits.apply(network), source).await?;
    let (_no_tree, tree) = watch::channel(None);
    let mirror = daemon
        .as_ref()
        .map(|daemon| daemon.mirror(&blocks, &directory, tree, watching.clone()))
        .transpose()?;
    let metrics = engines.metrics().clone();
    let _shown = match args.metrics.address {
        Some(address) => {
            let exporter = Exporter::of_node("miner", network.clone(), blocks.clone(), directory.path());
            Some(show(address, exporter, mirror.as_ref(), &metrics, providers).await?)
        }
        None => None,
    };
    tracing::info!(
        "miner {} ready with {} on {}",
        key.address(),
        engines.models().keys().cloned().collect::<Vec<_>>().join(", "),
        providers.devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    );

    let seen = status::Joined::default();
    let of = mirror.as_ref().map(Mirroring::standing);
    let _answering =
        status::answer(&directory, "miner", &args.pool.pool, key.address(), &network, clock, &seen, of);
    let terms = join_terms(&args.files, &args.pool)?;
    let joining = join(&network, &mut events, &terms, clock, None);
    let Some(joined) = stop.run_until_cancelled(joining).await.transpose()? else {
        network.shutdown().await;
        return Ok(());
    };
    tracing::info!("joined {} of operator {}", terms.pool, joined.operator);
    let first = [joined.opened.clone(), joined.beacon.clone()];
    let offer = capacity::Offer { args: &args.miner, models: &models, engines: &engines, providers };
    let mut miner = Miner::new(offer.config(&joined.pool, &key, clock));
    let link = Link::new(network.clone(), joined, clock).await;
    let view = LiveView::keeping(directory.file(EVIDENCE_FOLDER));
    tokio::spawn(view.clone().keep(link.clone(), MAX_VIEW_PAGES, VIEW_INTERVAL, stop.clone()));
    let (diary, streams) = (Diary::default(), Streams::default());
    // It was empty until now.
    let _ = seen.set(status::Member { link: link.clone(), view: view.clone(), diary: diary.clone() });
    let (inbox, mut inputs) = mpsc::channel(MAX_INBOX);
    let _orders = rests(&directory, args.miner.hours.as_ref(), &inbox, &stop);
    tokio::spawn(capacity::keep(offer.whole(), providers.gone.clone(), inbox.clone(), metrics.clone()));
    begin(&link, &view, first, &inbox).await?;
    metrics.operator_is_there(true);
    let heard = (view.clone(), streams.clone(), metrics.clone());
    let listener = tokio::spawn(listen(link.clone(), heard, events, inbox.clone(), stop));
    let mut shell =
        MinerShell::new(key, link, blocks, daemon, models, engines, inbox, clock, diary, streams, view);
    let outcome = driver::run(&mut miner, &mut shell, &mut inputs, clock, &CancellationToken::new()).await;
    listener.abort();
    network.shutdown().await;
    outcome
}

/// Shows what the miner counts, and what its IPFS daemon lacks.
async fn show(
    address: SocketAddr,
    mut exporter: Exporter,
    mirror: Option<&Mirroring>,
    metrics: &MinerMetrics,
    providers: &Providers,
) -> Result<Server> {
    let devices = DeviceSource::new(providers.registry.clone(), &providers.devices);
    exporter.show(&devices);
    exporter.read(devices);
    mirror.iter().for_each(|mirror| mirror.show(&mut exporter));
    exporter.show(metrics);
    Ok(Server::start(address, exporter).await?)
}

/// Begins to pass on when the owner wants the miner to rest.
fn rests(
    directory: &DataDir,
    hours: Option<&Hours>,
    inbox: &mpsc::Sender<Input<Event, ()>>,
    stop: &CancellationToken,
) -> Option<Answering> {
    if let Some(hours) = hours {
        tokio::spawn(hours::keep(hours.clone(), inbox.clone(), stop.clone()));
    }
    pause::listen(directory, inbox, hours)
}

/// What the operator said when the pool was joined goes to the machine first.
async fn begin(
    link: &Link,
    view: &LiveView,
    first: [Verified; 2],
    inbox: &mpsc::Sender<Input<Event, ()>>,
) -> Result<()> {
    inbox.send(Input::Event(Event::Connected)).await?;
    for statement in first {
        view.hear_answer(link, &statement);
        inbox.send(Input::Event(Event::Heard(Box::new(statement)))).await?;
    }
    Ok(())
}

/// Limits what the GPUs may take, if that is wanted, and begins to read what this machine takes.
async fn power(
    limit: Option<u32>,
    devices: &[Device],
    ends: CancellationToken,
) -> Result<(Option<Limit>, Power)> {
    let gpus: Vec<u32> = devices.iter().filter_map(|device| Some(device.gpu.as_ref()?.index)).collect();
    let power = Power::probe(&gpus);
    let set = move || limit.map(|watts| Limit::set(watts, &gpus)).transpose();
    let limited = tokio::task::spawn_blocking(set).await??;
    if let Some(sources) = power.sources() {
        tracing::debug!("{sources} tell what they use");
    }
    tokio::spawn(power.clone().watch(ends));
    Ok((limited, power))
}

/// Loads the models, which takes minutes for large ones; nothing if it is told to stop meanwhile.
async fn start_engines(
    models: &Arc<Models>,
    slots: u32,
    providers: &Providers,
    power: Power,
    stop: &CancellationToken,
) -> Result<Option<Engines>> {
    if !providers.devices.iter().all(Device::is_gpu) {
        warn_of_slow_formats(models);
    }
    let registry = &providers.registry;
    let (models, starting) = (models.clone(), registry.clone());
    let mut starting = tokio::task::spawn_blocking(move || Engines::start(&models, slots, &starting, power));
    tokio::select! {
        engines = &mut starting => Ok(Some(engines??)),
        () = stop.cancelled() => {
            registry.providers().for_each(|provider| provider.stop());
            // What was started ends with it, and that it was stopped is no error.
            let _ = starting.await;
            Ok(None)
        }
    }
}

/// Passes on what the network says; once told to stop, tells the miner to drain.
async fn listen(
    link: Link,
    (view, streams, metrics): (LiveView, Streams, MinerMetrics),
    mut events: mpsc::Receiver<NetworkEvent>,
    inbox: mpsc::Sender<Input<Event, ()>>,
    stop: CancellationToken,
) {
    let mut draining = false;
    loop {
        let event = tokio::select! {
            () = stop.cancelled(), if !draining => {
                draining = true;
                Event::Drain { grace: DRAIN_GRACE }
            }
            event = events.recv() => match event {
                None => return,
                Some(NetworkEvent::SyncRequest { peer, data, reply }) => {
                    streams.answer(peer, &data, reply);
                    continue;
                }
                Some(event) => match link.hear(event).await {
                    Heard::Statement(verified) => {
                        view.hear(&link, &verified);
                        Event::Heard(verified)
                    }
                    Heard::Moved(verified) => {
                        view.hear(&link, &verified);
                        metrics.operator_is_there(true);
                        tracing::info!("connected to the operator");
                        // The inbox is gone only when the process is.
                        let _ = inbox.send(Input::Event(Event::Heard(verified))).await;
                        Event::Connected
                    }
                    Heard::MaybeOperator(peer) => {
                        let (link, inbox, metrics) = (link.clone(), inbox.clone(), metrics.clone());
                        tokio::spawn(async move {
                            if link.recognise(peer).await {
                                metrics.operator_is_there(true);
                                tracing::info!("connected to the operator");
                                // The inbox is gone only when the process is.
                                let _ = inbox.send(Input::Event(Event::Connected)).await;
                            }
                        });
                        continue;
                    }
                    Heard::Disconnected => {
                        metrics.operator_is_there(false);
                        tracing::info!("the operator is away; going on as soon as it is back");
                        Event::Disconnected
                    }
                    Heard::Nothing => continue,
                },
            },
        };
        if inbox.send(Input::Event(event)).await.is_err() {
            return;
        }
    }
}
