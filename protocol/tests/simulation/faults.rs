//! What goes wrong, and when: decided at the start, over when the plan says so.

use crate::actors::{Actor, ActorEvent};
use crate::miner::MinerShell;
use crate::mint::{Node, OPERATOR, wallet};
use crate::operator;
use crate::plan::Plan;
use crate::world::{Due, World};
use swarm_protocol::codec::JobId;
use swarm_protocol::pool::JobFate;
use swarm_protocol::statement::SKEW;

#[derive(Debug, Clone)]
pub(crate) enum Fault {
    OperatorCrash,
    OperatorStart,
    /// An actor's process ends; a new one starts after so many milliseconds.
    Crash(Node, u64),
    Start(Node),
    /// A miner is asked to stop, and a new process follows.
    Drain(Node),
    /// These nodes are cut off for so long; one way only, if so.
    Part(Vec<Node>, u64, bool),
    Heal,
    /// A node's connection to the operator is found broken, or whole again.
    Link(Node),
    Jump(Node, i64),
    Calm,
    /// Is anybody left waiting?
    Look,
}

/// Time in which a pending job finds its miner, once all is well.
const HOPE: u64 = 25_000;
/// Epochs from the last job until all money is paid: four for an audit, one for a challenge late in its time, and what is
/// under way.
const SETTLED: u64 = 7;
/// Between two looks at who waits.
const LOOK: u64 = 5_000;

/// How long after the last fault everything must be over.
pub(crate) fn patience(plan: &Plan) -> u64 {
    let posted = &plan.posted;
    let job = 45_000 + 120_000 + posted.lease.0 + 3 * posted.fetch.0;
    let clocks = 2 * u64::try_from(plan.skew).expect("a skew is positive") + 60_000;
    job + clocks + if plan.settle { SETTLED * posted.epoch.0 } else { 0 }
}

pub(crate) fn begin(world: &mut World) {
    let plan = world.plan.clone();
    operator::start(world);
    let roles = [plan.miners, plan.clients, plan.liars];
    let first = |role: usize| 1 + roles[..role].iter().sum::<usize>();
    for node in 1..world.nodes() {
        let actor = if node < first(1) {
            Actor::Miner(Box::new(MinerShell::new(world, node)))
        } else if node < first(2) {
            Actor::Client(Box::default())
        } else {
            Actor::Liar(Box::default())
        };
        let is_client = matches!(actor, Actor::Client(_));
        world.actors[node - 1] = actor;
        let delay = world.rng.range(1, 2_500);
        world.after(delay, Due::Fault(Fault::Link(node)));
        let event = if is_client { ActorEvent::Submit } else { ActorEvent::Lie };
        let times = if is_client { plan.jobs } else { 1 };
        for _ in 0..times {
            let at = world.rng.range(100, plan.calm_at);
            world.after(at, Due::Actor { node, life: 0, event: event.clone() });
        }
    }
    schedule(world, &plan);
}

fn schedule(world: &mut World, plan: &Plan) {
    let nodes = world.nodes() as u64;
    let crash_of = |world: &mut World, first: usize, count: usize| {
        let node = first + usize::try_from(world.rng.below(count as u64)).expect("few nodes");
        Fault::Crash(node, world.rng.range(50, 8_000))
    };
    let mut faults = vec![Fault::OperatorCrash; usize::try_from(plan.crashes).expect("few")];
    faults.extend((0..plan.miner_crashes).map(|_| crash_of(world, 1, plan.miners)));
    faults.extend((0..plan.client_crashes).map(|_| crash_of(world, 1 + plan.miners, plan.clients)));
    for _ in 0..plan.miner_crashes {
        let node = world.rng.range(1, plan.miners as u64);
        faults.push(Fault::Drain(usize::try_from(node).expect("few nodes")));
    }
    for _ in 0..plan.partitions {
        let count = world.rng.range(1, (nodes - 1).min(3));
        let from = world.rng.below(2);
        let nodes = (0..count).map(|_| usize::try_from(world.rng.range(from, nodes - 1)).expect("few"));
        let nodes = nodes.collect();
        faults.push(Fault::Part(nodes, world.rng.range(300, 9_000), world.rng.chance(300)));
    }
    for _ in 0..plan.jumps {
        let node = if world.rng.chance(500) { 0 } else { world.rng.below(nodes) };
        let reach = if world.rng.chance(300) { 70_000 } else { 9_000 };
        let by = world.rng.around(reach).max(-12_000);
        faults.push(Fault::Jump(usize::try_from(node).expect("few"), by));
    }
    for fault in faults {
        let at = world.rng.range(200, plan.calm_at);
        world.after(at, Due::Fault(fault));
    }
    world.after(plan.calm_at, Due::Fault(Fault::Calm));
}

pub(crate) fn strike(world: &mut World, fault: Fault) {
    world.note(|| format!("fault: {fault:?}"));
    match fault {
        Fault::OperatorCrash => {
            if world.operator.is_up() && !world.calm {
                operator::crash(world);
            }
        }
        Fault::OperatorStart => {
            if !world.operator.is_up() {
                operator::start(world);
                all_links(world);
            }
        }
        Fault::Crash(node, pause) => {
            let actor = std::mem::replace(&mut world.actors[node - 1], Actor::Absent);
            world.lives[node] += 1;
            world.plan_wake(node);
            world.actors[node - 1] = match actor {
                Actor::Client(client) => Actor::Client(Box::new(client.resumed(world, node))),
                Actor::Miner(_) => Actor::Absent,
                other => other,
            };
            if !world.calm
                && let Actor::Absent = world.actors[node - 1]
            {
                world.after(pause, Due::Fault(Fault::Start(node)));
            } else {
                strike(world, Fault::Start(node));
            }
        }
        Fault::Drain(node) => {
            world.act(node, ActorEvent::Drain);
            world.after(5_000, Due::Fault(Fault::Crash(node, 500)));
        }
        Fault::Start(node) => {
            if let Actor::Absent = world.actors[node - 1] {
                world.actors[node - 1] = Actor::Miner(Box::new(MinerShell::new(world, node)));
            }
            strike(world, Fault::Link(node));
        }
        Fault::Part(nodes, span, one_way) => {
            if world.calm {
                return;
            }
            let all = world.nodes();
            world.network.part(&nodes, all, one_way);
            world.after(span, Due::Fault(Fault::Heal));
            all_links(world);
        }
        Fault::Heal => {
            world.network.heal();
            all_links(world);
        }
        Fault::Link(node) => {
            let whole = world.operator.is_up() && !world.network.is_cut(node, OPERATOR);
            world.act(node, if whole { ActorEvent::Connected } else { ActorEvent::Disconnected });
        }
        Fault::Jump(node, by) => world.set_clock(node, by),
        Fault::Calm => calm(world),
        Fault::Look => look(world),
    }
}

/// Everybody's connection to the operator is looked at again, in a moment.
fn all_links(world: &mut World) {
    for node in 1..world.nodes() {
        let delay = world.rng.range(20, 1_500);
        world.after(delay, Due::Fault(Fault::Link(node)));
    }
}

pub(crate) fn operator_gone(world: &mut World) {
    let pause = world.rng.range(100, 6_000);
    world.after(pause, Due::Fault(Fault::OperatorStart));
    all_links(world);
}

fn calm(world: &mut World) {
    world.calm = true;
    world.network.calm();
    world.plan.crash_at_effects.clear();
    if !world.operator.is_up() {
        strike(world, Fault::OperatorStart);
    }
    for node in 1..world.nodes() {
        if let Actor::Absent = world.actors[node - 1] {
            strike(world, Fault::Start(node));
        }
    }
    all_links(world);
    world.after(LOOK, Due::Fault(Fault::Look));
}

/// Long after the faults, a job expires only if no honest miner could have run it.
pub(crate) fn was_hopeless(world: &World, id: &JobId) -> Result<(), String> {
    let Some(job) = world.checker.book.jobs.get(id) else { return Ok(()) };
    let listed_at = job.latest().listed_at;
    let waited = world.checker.facts.now.since(listed_at);
    if !world.calm || world.t < world.plan.calm_at + HOPE || waited.0 < HOPE {
        return Ok(());
    }
    let barred = |node: &Node| job.barred().any(|(barred, _)| barred == wallet(*node));
    let operator = world.clock(OPERATOR);
    let on_time = |node: &Node| {
        let clock = world.clock(*node);
        clock.since(operator).max(operator.since(clock)) < SKEW
    };
    match (1..=world.plan.miners).find(|node| !barred(node) && on_time(node)) {
        Some(node) => Err(format!("{id} expires after {waited:?}, though miner {node} could run it")),
        None => Ok(()),
    }
}

/// Clients hear soon how a job ended.
fn look(world: &mut World) {
    let mut late = Vec::new();
    let jobs = &world.checker.book.jobs;
    // By an operator whose clock is far ahead, a job may be forgotten long before its client gives it up.
    let pool = world.operator.pool.as_ref();
    let known = |id: &JobId| pool.is_some_and(|pool| !matches!(pool.fate(id), JobFate::Unknown));
    let is_over = |id: &JobId| jobs.get(id).is_some_and(|job| job.stage.is_terminal()) && known(id);
    for actor in &mut world.actors {
        if let Actor::Client(client) = actor {
            late.extend(client.late(is_over));
        }
    }
    if let Some(id) = late.first() {
        world.hold(Err(format!("{id} is over, and its client still waits")));
    }
    world.after(LOOK, Due::Fault(Fault::Look));
}

/// Nothing is left to happen.
pub(crate) fn is_over(world: &World) -> bool {
    if !world.calm || world.t < world.plan.calm_at + 1_000 {
        return false;
    }
    let idle = world.checker.open() == 0 && !world.actors.iter().any(Actor::waits);
    let settled = !world.plan.settle || world.checker.book.held.is_empty();
    idle && settled
}

pub(crate) fn unfinished(world: &World) -> String {
    let jobs = &world.checker.book.jobs;
    let open: Vec<_> = jobs.iter().filter(|(_, job)| !job.stage.is_terminal()).collect();
    match open.first() {
        Some((id, job)) => format!("{} jobs are open, {id} is {:?}", open.len(), job.stage),
        None if world.actors.iter().any(Actor::waits) => "a client still waits".into(),
        None => "an epoch's money is still held".into(),
    }
}
