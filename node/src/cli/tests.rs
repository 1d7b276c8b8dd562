use super::*;
use clap::CommandFactory;
use std::io::Write;
use swarm_protocol::{Millis, Posted};

fn node(line: &str) -> Result<NodeArgs, String> {
    run(line, |args: &NodeArgs, matches| args.check(matches))
}

fn client(line: &str) -> Result<ClientArgs, String> {
    run(line, |_, _| Ok(()))
}

fn run<T: CommandFactory + FromArgMatches>(
    line: &str,
    check: impl Fn(&T, &ArgMatches) -> Result<(), UserError>,
) -> Result<T, String> {
    let told = |error: UserError| format!("{} → {}", error.message, error.hint.unwrap_or_default());
    match parse::<T>(line.split_whitespace().map(OsString::from).collect()).map_err(told)? {
        Parsed::Run(args, matches) => check(&args, &matches).map(|()| args).map_err(told),
        Parsed::Shown(exit) => Err(format!("{exit:?}")),
    }
}

#[test]
fn both_commands_are_well_formed() {
    NodeArgs::command().debug_assert();
    ClientArgs::command().debug_assert();
}

#[test]
fn every_flag_has_its_variable() {
    let client = ClientArgs::command();
    let commands = [NodeArgs::command()].into_iter().chain(client.get_subcommands().cloned());
    for command in commands.chain([client.clone()]) {
        for argument in command.get_arguments() {
            let Some(flag) = argument.get_long().filter(|flag| !["help", "version"].contains(flag)) else {
                continue;
            };
            let expected = format!("SWARMPOOL_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(
                argument.get_env().and_then(|name| name.to_str()),
                Some(expected.as_str()),
                "--{flag}"
            );
        }
    }
}

#[test]
fn the_numbers_of_the_flags_are_those_of_the_protocol() {
    assert_eq!(node("swarm-node --role operator").unwrap().operator.posted(), Posted::default());
    let posted =
        node("swarm-node --role operator --epoch 5s --window 0 --test-credit 0.5").unwrap().operator.posted();
    assert_eq!((posted.epoch, posted.window, posted.test_credit.0), (Millis(5000), Millis(0), 500_000));
}

#[test]
fn the_three_commands_of_the_readme_need_no_other_flag() {
    let miner = node("swarm-node --role miner --ens alice.eth").unwrap();
    assert_eq!(
        (miner.role, miner.data_name(), miner.pool.pool.as_str()),
        (Some(NodeRole::Miner), Some("alice.eth"), "swarmpool.eth")
    );
    assert_eq!(node("swarm-node --role operator").unwrap().data_name(), None);
    let client = client("swarm-client submit job.json").unwrap();
    let ClientCommand::Submit(submit) = client.command else { panic!("another command") };
    assert_eq!((submit.file.as_path(), submit.no_wait), (std::path::Path::new("job.json"), false));
}

#[test]
fn flags_of_the_client_may_stand_before_or_after_its_command() {
    for line in ["swarm-client --pool a.eth status --json", "swarm-client status --json --pool a.eth"] {
        let args = client(line).unwrap();
        assert!(args.output.json && args.pool.pool == "a.eth", "{line}");
    }
    let id = swarm_protocol::codec::JobId::of(b"job");
    for command in ["wait", "resume"] {
        let args = client(&format!("swarm-client {command} {id}")).unwrap();
        assert!(matches!(args.command, ClientCommand::Wait { job, .. } if job == id));
    }
}

#[test]
fn mistakes_on_the_command_line() {
    let table = [
        (
            "swarm-node",
            "the following required arguments were not provided: --role <ROLE> → see swarm-node --help",
        ),
        (
            "swarm-node --role boss",
            "invalid value 'boss' for '--role <ROLE>' [possible values: operator, miner] → see swarm-node --help",
        ),
        ("swarm-node --rol miner", "unexpected argument '--rol' found → a similar argument exists: '--role'"),
        (
            "swarm-node --role operator --ens alice.eth",
            "--ens belongs to --role miner, not to --role operator → leave --ens out, or start a miner of its own",
        ),
        (
            "swarm-node --role miner --first-progress 1s",
            "--first-progress belongs to --role operator, not to --role miner → leave --first-progress out, or start an operator of its own",
        ),
        (
            "swarm-node --role operator --operator 0x0000000000000000000000000000000000000001",
            "an operator takes no --operator or --accept-operator → its address follows from its key; choose that with --key",
        ),
        (
            "swarm-node --role miner --ens Alice",
            "invalid value 'Alice' for '--ens <NAME>': write a name like alice.eth: lower-case letters, digits, - and _, with dots between → see swarm-node --help",
        ),
        (
            "swarm-node --role miner --slots 0",
            "invalid value '0' for '--slots <N>': 0 is not in 1..=64 → see swarm-node --help",
        ),
        (
            "swarm-node --role operator --epoch 60",
            "invalid value '60' for '--epoch <TIME>': write a time like 400ms, 30s, 5m or 1h, not '60' → see swarm-node --help",
        ),
        (
            "swarm-node --role operator --window 3s",
            "invalid value '3s' for '--window <TIME>': 2s is the longest window → see swarm-node --help",
        ),
        (
            "swarm-node --role miner --min-price 0.1234567",
            "invalid value '0.1234567' for '--min-price <USDC>': '0.1234567' has more than six decimals; the smallest amount is 0.000001 USDC → see swarm-node --help",
        ),
        (
            "swarm-node --role miner --operator 5",
            "invalid value '5' for '--operator <0x…>': an address begins with 0x → see swarm-node --help",
        ),
        (
            "swarm-client submit",
            "the following required arguments were not provided: <JOB.JSON> → see swarm-client --help",
        ),
        (
            "swarm-client sumbit job.json",
            "unrecognized subcommand 'sumbit' → a similar subcommand exists: 'submit'",
        ),
    ];
    let told = |line: &str| match line.starts_with("swarm-node") {
        true => node(line).map(drop),
        false => client(line).map(drop),
    };
    let wrong = table.iter().filter(|(line, expected)| told(line) != Err((*expected).to_owned()));
    let wrong: Vec<_> = wrong.map(|(line, _)| (line, told(line))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn help_is_not_a_mistake_and_a_missing_command_is() {
    assert_eq!(node("swarm-node --version").unwrap_err(), "Done");
    assert_eq!(client("swarm-client").unwrap_err(), "Misused");
}

#[test]
fn short_help_fits_a_screen() {
    for command in [NodeArgs::command(), ClientArgs::command()] {
        let help = hide_variables(command).term_width(100).render_help().to_string();
        assert!(help.lines().count() <= 58, "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
}

fn with_config(settings: &str, flags: &str) -> Result<NodeArgs, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(settings.as_bytes()).unwrap();
    let path = file.path().display().to_string();
    node(&format!("swarm-node --config {path} {flags}")).map_err(|told| told.replace(&path, "config.toml"))
}

#[test]
fn a_settings_file_gives_defaults_that_flags_beat() {
    let settings = "role = \"miner\"\nslots = 3\nno-mdns = true\nbootstrap = [\"/ip4/127.0.0.1/tcp/1\", \"/ip4/127.0.0.1/tcp/2\"]\npool = \"a.eth\"\n";
    let args = with_config(settings, "").unwrap();
    assert_eq!(
        (args.role, args.miner.slots, args.network.no_mdns, args.network.bootstrap.len()),
        (Some(NodeRole::Miner), 3, true, 2)
    );
    let args = with_config(settings, "--slots 5 --pool b.eth").unwrap();
    assert_eq!((args.miner.slots, args.pool.pool.as_str()), (5, "b.eth"));
}

#[test]
fn empty_settings_are_none() {
    let settings =
        "role = \"miner\"\nbootstrap = \"\"\nlisten = []\nmodel = [\"\"]\nens = \"\"\nslots = \"\"\n";
    let args = with_config(settings, "").unwrap();
    assert_eq!((args.network.bootstrap.len(), args.network.listen.len(), args.models.len()), (0, 0, 0));
    assert_eq!((args.miner.ens, args.miner.slots), (None, 1));
}

#[test]
fn an_empty_variable_beats_the_settings_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "role = \"miner\"\nbootstrap = [\"/ip4/127.0.0.1/tcp/1\"]\nslots = 3\nens = \"a.eth\"")
        .unwrap();
    let plain = NodeArgs::command();
    let read = |empty: &'static [&str]| {
        let command = config::apply(plain.clone(), file.path()).unwrap();
        let command =
            without_empty_variables(command, &plain, &|name| empty.iter().any(|empty| name == *empty));
        NodeArgs::from_arg_matches(&command.get_matches_from(["swarm-node"])).unwrap()
    };
    let read = |empty| {
        let args = read(empty);
        (args.network.bootstrap.len(), args.miner.slots, args.miner.ens)
    };
    assert_eq!(read(&[]), (1, 3, Some("a.eth".to_owned())));
    assert_eq!(read(&["SWARMPOOL_BOOTSTRAP"]), (0, 3, Some("a.eth".to_owned())));
    assert_eq!(read(&["SWARMPOOL_BOOTSTRAP", "SWARMPOOL_SLOTS", "SWARMPOOL_ENS"]), (0, 1, None));
}

#[test]
fn mistakes_in_a_settings_file() {
    let table = [
        ("slot = 3", "config.toml: slot is not a setting → did you mean slots?"),
        ("no_mdns = true", "config.toml: no_mdns is not a setting → did you mean no-mdns?"),
        ("min-price = 0.1", "config.toml: min-price must be written in quotes → "),
        ("[miner]\nslots = 1", "config.toml: miner is not a setting → the settings are: "),
        ("slots = 0", "config.toml: invalid value '0' for '--slots <N>': 0 is not in 1..=64 → "),
        ("a = 1\nb = = 2", "config.toml: line 2: "),
    ];
    for (settings, expected) in table {
        let told = with_config(settings, "--role miner").unwrap_err();
        assert!(told.starts_with(expected), "{settings}: {told}");
    }
    let told = node("swarm-node --config /nonexistent/file --role miner").unwrap_err();
    assert!(told.starts_with("/nonexistent/file cannot be read: "), "{told}");
}

#[test]
#[cfg(not(feature = "kubo"))]
fn a_daemon_needs_a_program_that_was_built_for_it() {
    let told = node("swarm-node --role operator --ipfs-api http://127.0.0.1:5001").unwrap_err();
    assert!(
        told.starts_with("--ipfs-api is not built into this program → build it with cargo build"),
        "{told}"
    );
}
