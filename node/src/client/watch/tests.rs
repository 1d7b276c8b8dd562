use super::screen::Screen;
use crate::client::survey::{EpochRow, JobRow, MinerRow, ModelRow, Survey};
use crate::tables::PeerRow;
use crossterm::event::KeyCode;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

const NOW: u64 = 1_800_000_000_000;
const WALLET: &str = "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf";

fn job(number: usize, state: &'static str) -> JobRow {
    JobRow {
        job: format!("bafyreigjobnumber{number:08}"),
        state,
        model: Some("queenbee-nano".into()),
        price_usdc: Some("0.10".into()),
        attempt: (state == "leased").then_some(1),
        miner: (state == "leased").then(|| WALLET.into()),
        miner_name: (state == "leased").then(|| "alice.eth".into()),
        since_ms: Some(NOW - 12_000),
        ..JobRow::default()
    }
}

fn survey() -> Survey {
    let miner = |name: &str, live| MinerRow {
        wallet: WALLET.into(),
        name: Some(name.into()),
        live,
        models: vec!["queenbee-nano".into()],
        slots: 1,
        device: "cpu".into(),
        heard_ms: NOW - 3000,
        ..MinerRow::default()
    };
    Survey {
        pool: "swarmpool.eth".into(),
        operator_in_reach: true,
        as_of_ms: NOW,
        age_ms: 0,
        epoch: 3,
        pending: 1,
        leased: 1,
        models: vec![ModelRow { model: "queenbee-nano".into(), miners: 1 }],
        free_usdc: Some("99.90".into()),
        jobs: vec![job(1, "leased"), job(2, "pending"), job(3, "answered")],
        my_jobs: vec![job(3, "answered")],
        miners: vec![miner("alice.eth", true), miner("bob.eth", false)],
        epochs: vec![
            EpochRow {
                epoch: 3,
                state: "open",
                since_ms: Some(NOW - 10_000),
                length_ms: Some(60_000),
                ..EpochRow::default()
            },
            EpochRow {
                epoch: 2,
                state: "sealed",
                header: Some("bafyreiheaderabcdefgh".into()),
                accepted: Some(7),
                refunded: Some(1),
                volume_usdc: Some("0.70".into()),
                ..EpochRow::default()
            },
        ],
        peers: vec![PeerRow {
            peer: "12D3KooWABCDEFGH".into(),
            agent: Some("swarm-node/0.1.0 (operator)".into()),
            address: "/ip4/127.0.0.1/tcp/4001".into(),
            route: "direct".into(),
            latency_ms: Some(2),
            since_ms: NOW - 65_000,
            route_since_ms: NOW - 60_000,
            score: 0.0,
        }],
        ..Survey::default()
    }
}

fn drawn(screen: &mut Screen, survey: &Survey, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame, survey)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| line(y).trim_end().to_owned() + "\n").collect()
}

#[test]
fn all_lists_are_on_a_screen_of_80_by_24() {
    let text = drawn(&mut Screen::default(), &survey(), 80, 24);
    let lines: Vec<&str> = text.lines().take(2).collect();
    let expected = [
        " swarmpool.eth  epoch 3  1 pending, 1 leased  1 live miner",
        " operator in reach, heard 0 s ago  you have 99.90 USDC",
    ];
    assert_eq!(lines, expected, "{text}");
    for shown in [
        "Jobs (3)",
        "…00000001",
        "leased",
        "alice.eth",
        "Miners (2)",
        "live",
        "gone",
        "My jobs (1)",
        "answered",
        "Epochs (2)",
        "open, 50 s left",
        "sealed",
        "Peers (1)",
        "direct",
        "2 ms",
        "q quit   1 jobs   2 miners",
    ] {
        assert!(text.contains(shown), "{shown} is not in\n{text}");
    }
}

#[test]
fn each_list_alone_shows_every_column_on_a_wide_screen() {
    let mut screen = Screen::default();
    let expected: [&[&str]; 5] = [
        &["job", "state", "age", "price", "model", "miner", "0.10", "12 s", "alice.eth (0x7E5F…5Bdf)"],
        &["miner", "busy", "heard", "models", "device", "0/1", "3 s", "queenbee-nano", "cpu"],
        &["epoch", "answered", "refunded", "volume", "header", "…abcdefgh", "0.70"],
        &["My jobs (1)", "…00000003"],
        &[
            "runs",
            "route",
            "latency",
            "since",
            "address",
            "…ABCDEFGH",
            "(operator)",
            "1 min",
            "/ip4/127.0.0.1/tcp/4001",
        ],
    ];
    for (key, expected) in ('1'..='5').zip(expected) {
        screen.press(KeyCode::Char(key));
        let text = drawn(&mut screen, &survey(), 140, 24);
        expected.iter().for_each(|shown| assert!(text.contains(shown), "{shown} is not in\n{text}"));
    }
    screen.press(KeyCode::Char('0'));
    assert_eq!(screen.chosen, None);
}

#[test]
fn any_size_is_drawn_and_says_how_to_leave() {
    for (width, height) in [(1, 1), (31, 24), (80, 7), (32, 8), (40, 12), (72, 9), (80, 24), (300, 100)] {
        for chosen in [None, Some(0), Some(4)] {
            let mut screen = Screen { chosen, ..Screen::default() };
            let text = drawn(&mut screen, &survey(), width, height);
            assert!(width < 24 || text.contains("q quit"), "{width}x{height}:\n{text}");
        }
    }
}

#[test]
fn a_screen_that_is_too_small_says_what_it_needs() {
    assert_eq!(drawn(&mut Screen::default(), &survey(), 31, 2), "32x8 is needed; q quits\n\n");
}

#[test]
fn an_operator_out_of_reach_is_said_with_the_age_of_what_is_shown() {
    let away = Survey { operator_in_reach: false, age_ms: 14_000, ..survey() };
    let text = drawn(&mut Screen::default(), &away, 80, 24);
    assert!(
        text.contains("operator OUT OF REACH, looking for it; this is what was known 14 s ago"),
        "{text}"
    );
    let silent = Survey { age_ms: 61_000, ..survey() };
    let text = drawn(&mut Screen::default(), &silent, 80, 24);
    assert!(text.contains("operator in reach, but silent for 1 min"), "{text}");
}

#[test]
fn evidence_against_the_operator_has_a_line_of_its_own() {
    let caught = Survey { evidence: vec!["epoch 2 has two headers: a and b".into()], ..survey() };
    let text = drawn(&mut Screen::default(), &caught, 80, 24);
    assert!(text.contains("evidence against the operator (1): epoch 2 has two headers"), "{text}");
}

#[test]
fn what_strangers_wrote_is_drawn_without_its_control_characters() {
    let mut survey = survey();
    survey.miners[0].name = Some("\u{1b}[31m\u{202e}evil\u{7}.eth".into());
    survey.miners[0].device = "gpu\u{9b}2J\nowned".into();
    survey.jobs[0].model = Some("mo\u{200b}del\r".into());
    survey.peers[0].agent = Some("agent\u{1b}]0;title\u{7}".into());
    let mut screen = Screen::default();
    for key in ['0', '1', '2', '5'] {
        screen.press(KeyCode::Char(key));
        let text = drawn(&mut screen, &survey, 140, 24);
        let bad = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{200b}".contains(c);
        assert!(!text.contains(bad), "{text:?}");
    }
    screen.press(KeyCode::Char('2'));
    assert!(drawn(&mut screen, &survey, 140, 24).contains("�[31m�evil�.eth"));
}

#[test]
fn a_long_list_scrolls_to_its_ends_and_no_further() {
    let mut survey = survey();
    survey.jobs = (0..100).map(|n| job(n, "pending")).collect();
    let mut screen = Screen::default();
    screen.press(KeyCode::Char('1'));
    let mut after = |keys: &[KeyCode]| {
        keys.iter().for_each(|key| screen.press(*key));
        drawn(&mut screen, &survey, 80, 24)
    };
    assert!(after(&[]).contains("Jobs (1-18 of 100)"));
    assert!(after(&[KeyCode::Up]).contains("Jobs (1-18 of 100)"));
    assert!(after(&[KeyCode::Down]).contains("Jobs (2-19 of 100)"));
    assert!(after(&[KeyCode::PageDown]).contains("Jobs (20-37 of 100)"));
    let text = after(&[KeyCode::End]);
    assert!(text.contains("Jobs (83-100 of 100)") && text.contains("…00000099"), "{text}");
    assert!(after(&[KeyCode::PageDown]).contains("Jobs (83-100 of 100)"));
    assert!(after(&[KeyCode::Home]).contains("Jobs (1-18 of 100)"));
}

#[test]
fn tab_goes_round() {
    let mut screen = Screen::default();
    let seen: Vec<_> = (0..7)
        .map(|_| {
            screen.press(KeyCode::Tab);
            screen.chosen
        })
        .collect();
    assert_eq!(seen, [Some(0), Some(1), Some(2), Some(3), Some(4), None, Some(0)]);
    screen.press(KeyCode::BackTab);
    assert_eq!(screen.chosen, None);
    screen.press(KeyCode::BackTab);
    assert_eq!(screen.chosen, Some(4));
}

#[test]
fn a_pool_without_anything_says_what_to_do() {
    let text = drawn(&mut Screen::default(), &Survey::default(), 100, 30);
    for shown in ["no job is open", "no miner is known", "you have sent no job", "connected to nobody"] {
        assert!(text.contains(shown), "{shown} is not in\n{text}");
    }
}
