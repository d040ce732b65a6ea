//! What the command says about itself and the host.

use std::process::{Command, Output};

fn revelation(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_revelation"))
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn doctor_names_the_driver_and_the_first_limit() {
    let output = revelation(&["doctor"]);
    let said = text(&output.stdout);
    assert!(
        said.contains(" driver ") && said.contains("First limit: "),
        "{said}"
    );
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn shells_are_told_of_every_option() {
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&revelation(&["completions", shell]).stdout);
        assert!(
            script.contains("keep-existing") && script.contains("doctor"),
            "{shell}"
        );
    }
}

#[test]
fn the_manual_has_every_subcommand_and_its_options() {
    let page = text(&revelation(&["man"]).stdout);
    for word in [
        ".TH revelation",
        ".SH JOIN",
        ".SH NC",
        "\\-\\-keep\\-existing",
        "Exit status",
    ] {
        assert!(page.contains(word), "{word}");
    }
}
