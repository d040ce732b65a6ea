//! The command line as shells and readers of manuals want it.

use crate::args::Args;
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::{self, Write};

/// Completions for a shell, to stdout.
pub(crate) fn completions(shell: Shell) -> io::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "revelation", &mut text);
    print(&text)
}

/// The manual of the command and then of each subcommand, to stdout.
pub(crate) fn page() -> io::Result<()> {
    let mut command = Args::command();
    command.build();
    let mut text = Vec::new();
    let page = clap_mangen::Man::new(command.clone());
    page.render(&mut text)?;
    for subcommand in command
        .get_subcommands()
        .filter(|one| one.get_name() != "help")
    {
        let page = clap_mangen::Man::new(subcommand.clone().disable_version_flag(true));
        writeln!(text, ".SH {}", subcommand.get_name().to_uppercase())?;
        page.render_synopsis_section(&mut text)?;
        page.render_description_section(&mut text)?;
        page.render_options_section(&mut text)?;
        page.render_extra_section(&mut text)?;
    }
    print(&text)
}

/// Writes all of it. A reader that has seen enough is no error.
fn print(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
