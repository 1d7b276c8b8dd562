//! An internet of network namespaces: an operator outside, homes behind routers that translate addresses.
//!
//! Nothing in it is connected to anything outside it, and it is gone when it is dropped.

use crate::harness::{Finished, Process, Site};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// What these addresses belong to outside does not matter: they never leave the namespaces. Those set aside for
/// examples will not do, as programs know that nobody can be reached there.
const NETWORK: &str = "45.0";
/// The operator's port.
pub const PORT: u16 = 4001;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// How a router translates the addresses of its home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// One port outside for one port inside, whoever is spoken to.
    Steady,
    /// Another port for each conversation.
    Symmetric,
}

/// Which way is cut between the operator and everybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Both,
    ToOperator,
    FromOperator,
}

/// What a slow wire does to each packet, in each direction.
#[derive(Debug, Clone, Copy)]
pub struct SlowLink {
    pub delay_ms: u32,
    pub loss_percent: u32,
    pub rate_mbit: u32,
}

/// The namespaces; gone when dropped.
pub struct Internet {
    prefix: String,
    spaces: Vec<String>,
}

/// One machine on it.
pub struct Machine {
    pub site: Site,
    space: String,
    listen: String,
}

impl Internet {
    /// An internet with an operator's machine, or why there can be none here.
    pub fn new() -> Result<(Self, Machine), String> {
        for tool in ["ip", "nft"] {
            let found = Command::new(tool).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
            found.map_err(|error| {
                format!("{tool} cannot be run ({error}): scripts/setup.sh tests installs it")
            })?;
        }
        sweep();
        let prefix = format!("swarm{}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut internet = Self { prefix, spaces: Vec::new() };
        internet.space("net").map_err(|why| format!("no network namespace can be made: {why}"))?;
        internet.space("operator")?;
        internet.wire("operator", "net", "operator")?;
        internet.shell("net", &format!("ip addr add {NETWORK}.1.1/24 dev operator"))?;
        internet.shell("net", "echo 1 > /proc/sys/net/ipv4/ip_forward")?;
        internet.shell("net", "nft add table ip cut")?;
        internet.shell(
            "net",
            "nft 'add chain ip cut forward { type filter hook forward priority 0; policy accept; }'",
        )?;
        internet.shell("operator", &format!("ip addr add {NETWORK}.1.2/24 dev out"))?;
        internet.shell("operator", &format!("ip route add default via {NETWORK}.1.1"))?;
        let machine = internet.machine("operator", PORT);
        Ok((internet, machine))
    }

    /// A home: a machine behind a router that lets nothing in by itself.
    pub fn home(&mut self, number: u8, nat: Nat) -> Machine {
        let (home, router) = (format!("home{number}"), format!("router{number}"));
        let made = self.space(&home).and_then(|()| self.space(&router));
        let wired = made.and_then(|()| self.wire(&router, "net", &router));
        wired.and_then(|()| self.wire(&home, &router, "lan")).unwrap();
        let out = format!("{NETWORK}.{}", number + 1);
        self.do_in("net", &format!("ip addr add {out}.1/24 dev {router}"));
        self.do_in(&router, &format!("ip addr add {out}.2/24 dev out; ip route add default via {out}.1"));
        self.do_in(&router, &format!("ip addr add 192.168.{number}.1/24 dev lan"));
        self.do_in(&router, "echo 1 > /proc/sys/net/ipv4/ip_forward");
        self.do_in(&home, &format!("ip addr add 192.168.{number}.2/24 dev out"));
        self.do_in(&home, &format!("ip route add default via 192.168.{number}.1"));
        let how = match nat {
            Nat::Steady => "masquerade",
            Nat::Symmetric => "masquerade random,fully-random",
        };
        let rules = format!(
            "table ip home {{
                chain out {{ type nat hook postrouting priority 100; oifname \"out\" {how}; }}
                chain in {{
                    type filter hook input priority 0; policy drop;
                    ct state established,related accept
                    iifname \"lan\" accept
                }}
                chain through {{
                    type filter hook forward priority 0; policy drop;
                    ct state established,related accept
                    iifname \"lan\" accept
                }}
            }}"
        );
        self.do_in(&router, &format!("nft -f - <<'RULES'\n{rules}\nRULES"));
        self.machine(&home, 0)
    }

    /// A wire of its own from a home to the operator, slow and lossy in both directions; it is cut when the process ends.
    pub fn slow_link(&self, home: &Machine, link: &SlowLink) -> Process {
        let (here, there) = (format!("{NETWORK}.9.1"), format!("{NETWORK}.9.2"));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/interop/link.py");
        let mut command = Command::new("python3");
        command.args([script, &home.space, &here, &self.name("operator"), &there]);
        command.args([link.delay_ms, link.loss_percent, link.rate_mbit].map(|number| number.to_string()));
        let wire = Process::start("link", command);
        wire.expect("ready");
        run(Command::new("ip").args([
            "-n",
            &home.space,
            "route",
            "add",
            &format!("{NETWORK}.1.2"),
            "dev",
            "slow",
        ]))
        .unwrap();
        wire
    }

    /// Takes the operator's address away and gives it the next one.
    pub fn move_operator(&self) {
        self.do_in("operator", &format!("ip addr del {NETWORK}.1.2/24 dev out"));
        self.do_in("operator", &format!("ip addr add {NETWORK}.1.3/24 dev out"));
        self.do_in("operator", &format!("ip route replace default via {NETWORK}.1.1"));
    }

    /// Lets nothing through between the operator and the homes until [`Internet::heal`].
    pub fn cut(&self, cut: Cut) {
        if cut != Cut::FromOperator {
            self.do_in("net", "nft add rule ip cut forward oifname operator drop");
        }
        if cut != Cut::ToOperator {
            self.do_in("net", "nft add rule ip cut forward iifname operator drop");
        }
    }

    pub fn heal(&self) {
        self.do_in("net", "nft flush chain ip cut forward");
    }

    fn machine(&self, name: &str, port: u16) -> Machine {
        let listen = format!("/ip4/0.0.0.0/tcp/{port},/ip4/0.0.0.0/udp/{port}/quic-v1");
        Machine { site: Site::new(), space: self.name(name), listen }
    }

    fn name(&self, space: &str) -> String {
        format!("{}-{space}", self.prefix)
    }

    fn space(&mut self, name: &str) -> Result<(), String> {
        let space = self.name(name);
        run(Command::new("ip").args(["netns", "add", &space]))?;
        self.spaces.push(space);
        self.shell(name, "ip link set lo up")
    }

    /// A cable from `out` of one namespace to a device of another.
    fn wire(&self, from: &str, to: &str, device: &str) -> Result<(), String> {
        let (from_space, to_space) = (self.name(from), self.name(to));
        let args = ["link", "add", "out", "netns", &from_space, "type", "veth", "peer", "name", device];
        run(Command::new("ip").args(args).args(["netns", &to_space]))?;
        self.shell(from, "ip link set out up")?;
        self.shell(to, &format!("ip link set {device} up"))
    }

    fn shell(&self, space: &str, script: &str) -> Result<(), String> {
        run(Command::new("ip").args(["netns", "exec", &self.name(space), "sh", "-ec", script]))
    }

    fn do_in(&self, space: &str, script: &str) {
        self.shell(space, script).unwrap_or_else(|why| panic!("{space}: {script}: {why}"));
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        for space in &self.spaces {
            if let Err(why) = run(Command::new("ip").args(["netns", "del", space])) {
                eprintln!("{space} is left: {why}");
            }
        }
    }
}

/// Removes what runs that were killed have left.
fn sweep() {
    let spaces = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for space in spaces.filter_map(|space| space.file_name().into_string().ok()) {
        let owner = space.strip_prefix("swarm").and_then(|rest| rest.split_once('n'));
        let Some(owner) = owner.and_then(|(id, _)| id.parse::<u32>().ok()) else { continue };
        if !std::path::Path::new(&format!("/proc/{owner}")).exists() {
            // Another run may have removed it first.
            let _ = run(Command::new("ip").args(["netns", "del", &space]));
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

impl Machine {
    /// Starts the operator, which listens on [`PORT`].
    pub fn operator(&self, args: &[&str]) -> Process {
        let mut command = self.command("swarm-node");
        command.args(["--role", "operator"]).args(args);
        let operator = Process::start("operator", self.inside(&command));
        operator.expect("listening on");
        operator
    }

    /// Starts a miner that knows both of the operator's addresses, and waits until it has joined.
    pub fn miner(&self, ens: &str, variables: &[(&str, &str)]) -> Process {
        let mut command = self.command("swarm-node");
        command.args(["--role", "miner", "--ens", ens, "--bootstrap", &bootstrap()]);
        command.envs(variables.iter().copied());
        let miner = Process::start(ens, self.inside(&command));
        miner.expect("joined swarmpool.eth");
        miner
    }

    /// Starts a client command that logs what it does.
    pub fn client(&self, args: &[&str]) -> Process {
        let mut command = self.command("swarm-client");
        command.args(args).args(["--log", "info", "--bootstrap", &bootstrap()]);
        Process::start("client", self.inside(&command))
    }

    /// Runs a client command on the operator's own machine, which finds it there.
    pub fn client_beside(&self, args: &[&str]) -> Finished {
        let mut command = self.site.command("swarm-client");
        command.args(args);
        Process::start("client", self.inside(&command)).finish()
    }

    /// How this machine's nodes say that their peers are connected.
    pub fn routes(&self) -> Vec<String> {
        let mut command = self.site.command("swarm-node");
        command.args(["status", "--json"]);
        let status = Process::start("status", self.inside(&command)).finish().good().json();
        let peers =
            status["nodes"].as_array().into_iter().flatten().flat_map(|node| node["peers"].as_array());
        peers.flatten().map(|peer| peer["route"].as_str().unwrap().to_owned()).collect()
    }

    /// Loses two of a hundred packets in each direction of this machine's link.
    pub fn lose_packets(&self) {
        let rules = "table ip lossy {
            chain in { type filter hook input priority 0; policy accept; numgen random mod 100 < 2 counter drop; }
            chain out { type filter hook output priority 0; policy accept; numgen random mod 100 < 2 counter drop; }
        }";
        let mut command = Command::new("sh");
        command.args(["-c", &format!("nft -f - <<'RULES'\n{rules}\nRULES")]);
        let done = self.inside(&command).status().unwrap();
        assert!(done.success(), "packets are not lost");
    }

    /// Packets that were lost so far.
    pub fn lost_packets(&self) -> u64 {
        let mut command = Command::new("nft");
        command.args(["list", "table", "ip", "lossy"]);
        let listed = self.inside(&command).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let counts = listed.split("counter packets ").skip(1);
        counts.map(|count| count.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Runs another program on this machine.
    pub fn run(&self, name: &str, command: &Command) -> Process {
        let mut inside = self.inside(command);
        if let Some(folder) = command.get_current_dir() {
            inside.current_dir(folder);
        }
        Process::start(name, inside)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.site.command(program);
        command.env("SWARMPOOL_LISTEN", &self.listen);
        command
    }

    fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.space]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside.stdin(Stdio::null());
        inside
    }
}

/// Where the operator is, before and after it moves.
pub fn bootstrap() -> String {
    format!("/ip4/{NETWORK}.1.2/tcp/{PORT},/ip4/{NETWORK}.1.3/tcp/{PORT}")
}
