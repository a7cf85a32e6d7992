//! Whether an ordinary user can be root among its own processes: user namespaces (user_namespaces(7)), and user and group
//! ids besides its own (subuid(5), subgid(5)).

use std::fs;
use std::path::Path;

use crate::Error;

/// Ids that a system needs: its own, and `nobody`, which is 65534.
const LEAST: u64 = 65_536;

/// Switches of the kernel that take user namespaces away, and the value with which they do.
const SWITCHES: [(&str, &str); 3] = [
    ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ("/proc/sys/user/max_user_namespaces", "0"),
];

/// That the user of this process can.
///
/// # Errors
/// What it lacks, and what an administrator does about it.
pub(crate) fn check() -> Result<(), Error> {
    for (switch, off) in SWITCHES {
        // A kernel that does not know a switch does not have what it switches off.
        if fs::read_to_string(switch).is_ok_and(|value| value.trim() == off) {
            return Err(Error::Namespaces { switch, value: off });
        }
    }
    let id = rustix::process::geteuid().as_raw();
    let user = name_of(id, &read("/etc/passwd"));
    for file in ["/etc/subuid", "/etc/subgid"] {
        if !has_ids(&read(file), &user, id) {
            return Err(Error::Subordinate { user, file });
        }
    }
    Ok(())
}

/// A file that is missing has nothing in it.
fn read(file: &str) -> String {
    fs::read_to_string(Path::new(file)).unwrap_or_default()
}

/// The name of the user `id`, or the number where the host knows it from elsewhere.
fn name_of(id: u32, users: &str) -> String {
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then_some(name)
    });
    name.map_or_else(|| id.to_string(), str::to_owned)
}

/// Whether a line of `ranges` gives enough ids to the user, by its name or its number.
fn has_ids(ranges: &str, user: &str, id: u32) -> bool {
    ranges.lines().any(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [owner, _, count] = fields[..] else { return false };
        let owned = owner == user || owner.parse() == Ok(id);
        owned && count.trim().parse::<u64>().is_ok_and(|count| count >= LEAST)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbroken\n";
        assert_eq!(name_of(1000, users), "ann");
        assert_eq!(name_of(1001, users), "1001");
    }

    #[test]
    fn ids_are_those_of_the_user_and_enough_for_a_system() {
        assert!(has_ids("ben:1:65536\nann:100000:65536\n", "ann", 1000));
        assert!(has_ids("1000:100000:65536\n", "ann", 1000));
        assert!(!has_ids("ben:100000:65536\n", "ann", 1000));
        assert!(!has_ids("ann:100000:1000\nann\nann:1:x\n", "ann", 1000));
    }
}
