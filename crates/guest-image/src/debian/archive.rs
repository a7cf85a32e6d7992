//! Where packages come from.

use std::process::Command;

use super::Recipe;

/// Debian's own archives.
const MAIN: &str = "http://deb.debian.org/debian";
const SECURITY: &str = "http://security.debian.org/debian-security";

/// Sources of packages, one a line as in apt's `sources.list`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sources {
    /// Those to build from.
    pub(crate) build: String,
    /// Those that the system itself is told of.
    pub(crate) system: String,
}

impl Sources {
    /// The mirror that the recipe names, else those of the host's apt, else Debian's own.
    pub(crate) fn of(recipe: &Recipe) -> Self {
        let suite = recipe.suite.as_str();
        let line = |archive: &str, suite: String| format!("deb {archive} {suite} main\n");
        if let Some(mirror) = &recipe.mirror {
            let lines = line(mirror, suite.to_owned());
            return Self { build: lines.clone(), system: lines };
        }
        let updates = || line(MAIN, format!("{suite}-updates"));
        let system = line(MAIN, suite.to_owned()) + &updates() + &line(SECURITY, format!("{suite}-security"));
        Self { build: of_host(&host(), suite).unwrap_or_else(|| system.clone()), system }
    }
}

/// What the host's apt knows, as lines of an archive and a suite; empty where there is no apt.
fn host() -> String {
    let targets = ["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"];
    let output = Command::new("apt-get").args(targets).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

fn of_host(known: &str, suite: &str) -> Option<String> {
    let mut sources = String::new();
    let mut has_suite = false;
    for line in known.lines() {
        let mut words = line.split(' ');
        let (Some(archive), Some(release), Some("main")) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let wanted = [suite.to_owned(), format!("{suite}-updates"), format!("{suite}-security")];
        if !wanted.iter().any(|wanted| wanted == release) {
            continue;
        }
        has_suite |= release == suite;
        let source = format!("deb {archive} {release} main\n");
        if !sources.contains(&source) {
            sources.push_str(&source);
        }
    }
    has_suite.then_some(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archives_of_the_hosts_apt_are_used_where_they_have_the_release() {
        let known = "http://near/debian/ bookworm main\nhttp://near/debian/ bookworm main\n\
            http://near/debian/ bookworm-backports main\nhttp://near/security/ bookworm-security main\n\
            http://near/debian/ bookworm non-free\n";
        let sources =
            "deb http://near/debian/ bookworm main\ndeb http://near/security/ bookworm-security main\n";
        assert_eq!(of_host(known, "bookworm").as_deref(), Some(sources));
        assert_eq!(of_host(known, "trixie"), None);
        assert_eq!(of_host("", "bookworm"), None);
    }

    #[test]
    fn a_named_mirror_is_the_systems_too() {
        let recipe = Recipe { mirror: Some("http://near/debian".to_owned()), ..Recipe::default() };
        let sources = Sources::of(&recipe);
        assert_eq!(sources.system, "deb http://near/debian bookworm main\n");
        assert_eq!(sources.build, sources.system);
    }
}
