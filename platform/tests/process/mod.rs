//! A started binary, for the tests of the services: each includes this file, since only the tests of a package know where
//! its binary is.
#![allow(dead_code)] // No test needs all of it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Longer than any start or end on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A process that printed its `ready` line. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    // Kept, so that the process may go on printing.
    _stdout: BufReader<ChildStdout>,
    pub(crate) ready: String,
}

/// A command without settings from the environment of the tests.
pub(crate) fn command(binary: &str, args: &[&str]) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARILLON_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn output(binary: &str, args: &[&str]) -> Output {
    command(binary, args).output().unwrap()
}

pub(crate) fn start(binary: &str, args: &[&str]) -> Process {
    start_command(&mut command(binary, args))
}

pub(crate) fn start_command(command: &mut Command) -> Process {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut ready = String::new();
    stdout.read_line(&mut ready).unwrap();
    Process { child, _stdout: stdout, ready: ready.trim_end().to_owned() }
}

impl Process {
    /// The address that the `ready` line names.
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        let prefix = format!("{name}=");
        let found = self.ready.split(' ').find_map(|word| word.strip_prefix(&prefix));
        found.unwrap_or_else(|| panic!("no {name} in {:?}", self.ready)).parse().unwrap()
    }

    /// What the admin port answers.
    pub(crate) fn admin(&self, path: &str) -> String {
        let mut socket = TcpStream::connect(self.address("admin")).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    pub(crate) fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap().success());
    }

    /// The exit code, if it ends in time.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
