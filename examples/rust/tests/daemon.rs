//! Runs the example against a daemon, RATELIMITD_BIN, whose clock stands still.

use std::fs::read_to_string;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};

struct Daemon {
    process: Child,
    grpc: String,
    _log: BufReader<ChildStderr>, // or else the daemon could not write its log
}

impl Daemon {
    fn start() -> Self {
        let program = std::env::var("RATELIMITD_BIN").unwrap_or("../../bin/ratelimitd".to_string());
        let flags = ["serve", "--test-clock", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--log-format=json"];
        let mut process = Command::new(&program).args(flags).stderr(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{program}: {e}"));
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains(r#""msg":"serving""#) {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the daemon does not serve");
        }
        let grpc = line.split(r#""grpc":""#).nth(1).and_then(|it| it.split('"').next()).expect(&line).to_string();
        Self { process, grpc, _log: log }
    }

    fn ask(&self, rate: &str, identifiers: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ask"));
        let said = command.args(identifiers).env("RATELIMITD_ADDR", &self.grpc).env("RATE", rate).output().unwrap();
        assert!(said.status.success(), "{said:?}");
        String::from_utf8(said.stdout).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn asks_the_daemon() {
    let daemon = Daemon::start();
    assert_eq!(daemon.ask("2/min", &["alice", "alice", "alice", "bob"]), "alice: allowed\nalice: allowed\nalice: denied, come back in Some(60s)\nbob: allowed\n");
}

#[test]
fn says_what_is_wrong() {
    let said = Daemon::start().ask("often", &["alice"]);
    assert!(said.starts_with(r#"alice: allowed without an answer: InvalidArgument ["limits[0].rate: "#), "{said}");
}

#[test]
fn does_without_a_daemon() {
    let mut daemon = Daemon::start();
    daemon.process.kill().unwrap();
    daemon.process.wait().unwrap();
    assert!(daemon.ask("2/min", &["alice"]).starts_with("alice: allowed without an answer: "));
}

/// What docs/calling.md shows is what is tested here.
#[test]
fn is_in_the_docs() {
    let docs = read_to_string("../../docs/calling.md").unwrap();
    let sources = read_to_string("build.rs").unwrap() + &read_to_string("src/main.rs").unwrap();
    let shown: Vec<_> = docs.split("```rust\n").skip(1).filter_map(|it| it.split("```").next()).collect();
    assert_eq!(shown.len(), 2);
    for part in shown {
        assert!(sources.contains(part), "{part}");
    }
}
