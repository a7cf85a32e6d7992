//! What a guest tells of itself, under the names that hosts know.

use std::fs;
use std::net::IpAddr;

use super::addresses;

/// Name and value of each fact; the order is that of Linux's own program.
pub(crate) struct Facts([(&'static str, String); 10]);

impl Facts {
    /// How things are now; `driver` is the version of the kernel's driver.
    pub(crate) fn now(driver: &str) -> Self {
        let (release, machine) = kernel();
        let system =
            fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release"));
        let system = system.unwrap_or_default();
        let of_system = |name| value(&system, name).unwrap_or_default();
        let all = addresses::all();
        let list = |four: bool| {
            let these = all.iter().map(|address| address.ip).filter(|ip| ip.is_ipv4() == four);
            these.map(|ip: IpAddr| ip.to_string()).collect::<Vec<_>>().join(";")
        };
        Self([
            ("FullyQualifiedDomainName", full_name()),
            ("IntegrationServicesVersion", driver.to_owned()),
            ("NetworkAddressIPv4", list(true)),
            ("NetworkAddressIPv6", list(false)),
            ("OSBuildNumber", release.clone()),
            ("OSName", value(&system, "NAME").unwrap_or_else(|| "Linux".to_owned())),
            ("OSMajorVersion", of_system("VERSION_ID")),
            ("OSMinorVersion", String::new()),
            ("OSVersion", release.split('-').next().unwrap_or_default().to_owned()),
            ("ProcessorArchitecture", machine),
        ])
    }

    pub(crate) fn nth(&self, index: u32) -> Option<(&'static str, String)> {
        self.0.get(usize::try_from(index).ok()?).cloned()
    }
}

/// The kernel's release and its architecture.
fn kernel() -> (String, String) {
    let Ok(name) = nix::sys::utsname::uname() else { return (String::new(), String::new()) };
    let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    (text(name.release()), text(name.machine()))
}

/// The host's name with its domain, as far as /etc/hosts has one.
fn full_name() -> String {
    let name = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    with_domain(&name, &hosts).unwrap_or(name)
}

/// The name that stands first on the line of /etc/hosts with `name`, if it is that name with a domain.
fn with_domain(name: &str, hosts: &str) -> Option<String> {
    hosts.lines().find_map(|line| {
        let words = line.split('#').next().unwrap_or_default().split_whitespace().skip(1).collect::<Vec<_>>();
        let first = words.first().filter(|first| {
            first.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')) && words.contains(&name)
        });
        first.map(|first| (*first).to_owned())
    })
}

/// A value of os-release(5).
fn value(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?.trim();
    let quoted = |quote| line.strip_prefix(quote).and_then(|line| line.strip_suffix(quote));
    let line = quoted('"').or_else(|| quoted('\'')).unwrap_or(line);
    let mut characters = line.chars();
    let mut value = String::new();
    while let Some(character) = characters.next() {
        // What a shell would be kept from.
        value.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_a_shell_makes_of_them() {
        let text = "# NAME=no\nNAME=\"Debian \\\"GNU\\\"\"\nVERSION_ID='12'\nID=debian\nPRETTY_NAME=\n";
        assert_eq!(value(text, "NAME").unwrap(), "Debian \"GNU\"");
        assert_eq!(value(text, "VERSION_ID").unwrap(), "12");
        assert_eq!(
            (value(text, "ID").unwrap().as_str(), value(text, "PRETTY_NAME").unwrap().as_str()),
            ("debian", "")
        );
        assert_eq!(value(text, "VARIANT"), None);
    }

    #[test]
    fn a_domain_is_what_etc_hosts_has_for_this_host() {
        let hosts =
            "127.0.0.1 localhost\n127.0.1.1 box.example.org box # me\n10.0.0.1 boxes.example.org boxes\n";
        assert_eq!(with_domain("box", hosts).unwrap(), "box.example.org");
        assert_eq!(with_domain("boxes.", hosts), None);
        assert_eq!(with_domain("other", hosts), None);
    }
}
