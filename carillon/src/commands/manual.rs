//! What a shell and `man` are told of the command line, made from its own description, so that neither is ever old.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Command;
use clap_complete::Shell;

use crate::fail;

/// Prints the completions for a shell: `carillon completions bash > /etc/bash_completion.d/carillon`.
#[derive(clap::Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

/// Prints the manual page: `carillon man > /usr/local/share/man/man1/carillon.1`.
#[derive(clap::Args)]
pub(crate) struct ManArgs {
    /// Of this command; without it, of `carillon` itself
    command: Option<String>,
}

pub(crate) fn completions(args: &CompletionsArgs, mut command: Command) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "carillon", &mut text);
    print(&text)
}

pub(crate) fn man(args: &ManArgs, mut command: Command) -> ExitCode {
    command.build();
    let command = match &args.command {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            Some(found) => found.clone(),
            None => return crate::refuse(format!("there is no command {name:?}")),
        },
    };
    let mut text = Vec::new();
    match clap_mangen::Man::new(command).render(&mut text) {
        Ok(()) => print(&text),
        Err(error) => fail(error),
    }
}

/// Whoever has read enough may go (`carillon man | head`).
fn print(text: &[u8]) -> ExitCode {
    match io::stdout().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(error),
        _ => ExitCode::SUCCESS,
    }
}
