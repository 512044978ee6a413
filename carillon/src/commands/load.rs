//! `carillon load`: load on a running server, with the checks built in.

use std::process::ExitCode;

use crate::fail;

pub(crate) fn run(args: &carillon_loadtest::Args) -> ExitCode {
    match carillon_loadtest::run(args) {
        Ok(report) => {
            println!("{report}");
            if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => fail(format!("{error:#}")),
    }
}
