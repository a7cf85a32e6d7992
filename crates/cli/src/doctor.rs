//! `bodhi doctor`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use machine::doctor::Kvm;

pub(crate) fn doctor() -> ExitCode {
    // Nobody may be reading any more, as behind a pager that has been left.
    let _ = io::stdout().write_all(text(&machine::doctor::kvm()).as_bytes());
    ExitCode::SUCCESS
}

fn text(kvm: &Kvm) -> String {
    let mut text = String::new();
    let mut line = |heading: &str, words: &str| {
        let _infallible = writeln!(text, "{heading:<12}{words}");
    };
    line("kvm", &format!("{}: {}", if kvm.chosen { "yes" } else { "no" }, kvm.finding));
    if let Some(remedy) = kvm.remedy {
        line("", &format!("remedy: {remedy}"));
    }
    if kvm.chosen && !kvm.lacks.is_empty() {
        line("", &format!("not offered there: {}", kvm.lacks));
    }
    line("translator", "yes: needs nothing of the host");
    let chosen = if kvm.chosen { "kvm" } else { "translator" };
    line("auto", &format!("--processor auto takes {chosen}"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_kvm_is_told_the_remedy_and_what_runs_instead() {
        let kvm = Kvm {
            chosen: false,
            works: false,
            finding: "there is none".to_owned(),
            remedy: Some("load it"),
            lacks: "all".parse().unwrap(),
        };
        let text = text(&kvm);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "kvm         no: there is none");
        assert_eq!(lines[1], "            remedy: load it");
        assert_eq!(lines[3], "auto        --processor auto takes translator");
    }

    #[test]
    fn a_host_with_kvm_is_told_what_it_lacks() {
        let lacks = "guest-idle".parse().unwrap();
        let kvm = Kvm { chosen: true, works: true, finding: "good".to_owned(), remedy: None, lacks };
        let text = text(&kvm);
        assert!(text.starts_with("kvm         yes: good\n            not offered there: "), "{text}");
        assert!(text.ends_with("auto        --processor auto takes kvm\n"), "{text}");
    }
}
