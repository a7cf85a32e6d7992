//! What is built.

use std::fmt::Write as _;

use crate::Error;
use crate::layout::LEAST;

/// What every system has, beside what Debian itself calls essential.
const PACKAGES: [&str; 24] = [
    "dbus",
    "e2fsprogs",
    "grub-efi-amd64-bin",
    "grub-pc",
    "hyperv-daemons",
    "init",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "libpam-systemd",
    "linux-image-amd64",
    "nano",
    "netbase",
    "openssh-server",
    "pciutils",
    "procps",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
    "whiptail",
    "zstd",
];

/// An installed system, as a user wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Debian's release, such as `bookworm`.
    pub suite: String,
    /// Bytes of the disk.
    pub size: u64,
    /// The user's name.
    pub user: String,
    /// The user's password; None: the user's name, for the consoles only.
    pub password: Option<String>,
    /// A public key that may log in by SSH.
    pub ssh_key: Option<String>,
    /// The system's name.
    pub hostname: String,
    /// Further packages.
    pub packages: Vec<String>,
    /// The archive to take packages from; None: that of the host's apt.
    pub mirror: Option<String>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            suite: "bookworm".to_owned(),
            size: 4 << 30,
            user: "bodhi".to_owned(),
            password: None,
            ssh_key: None,
            hostname: "debian".to_owned(),
            packages: Vec::new(),
            mirror: None,
        }
    }
}

impl Recipe {
    /// Checks that it can be built at all.
    ///
    /// # Errors
    /// The first option that is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let lower = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-+._".contains(&byte))
        };
        let name = |text: &str| {
            text.starts_with(|first: char| first.is_ascii_lowercase()) && lower(text) && text.len() <= 32
        };
        let host = |text: &str| {
            let label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            text.len() <= 63 && !text.is_empty() && !text.starts_with('-') && text.bytes().all(label)
        };
        let package = |text: &str| {
            text.starts_with(|first: char| first.is_ascii_alphanumeric()) && lower(text) && text.len() > 1
        };
        let printable = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        let mirror = |text: &str| {
            let known =
                ["http://", "https://", "file:/", "copy:/"].iter().any(|scheme| text.starts_with(scheme));
            known && !text.contains(|character: char| character.is_whitespace() || character.is_control())
        };
        let wrong =
            |option, value: &str, reason| Err(Error::Input { option, value: value.to_owned(), reason });
        if !name(&self.suite) {
            return wrong("suite", &self.suite, "is no name of a Debian release, such as bookworm");
        }
        if self.size < LEAST {
            return wrong("size", &format!("{}M", self.size >> 20), "is too small: at least 2G");
        }
        if !name(&self.user) || self.user == "root" {
            return wrong("user", &self.user, "is no name for a user");
        }
        if self.password.as_deref().is_some_and(|password| !printable(password)) {
            return wrong("password", "", "must be one line");
        }
        if let Some(key) = self.ssh_key.as_deref().filter(|key| !printable(key) || !key.contains(' ')) {
            return wrong("ssh-key", key.lines().next().unwrap_or_default(), "is no public key in one line");
        }
        if !host(&self.hostname) {
            return wrong("hostname", &self.hostname, "is no name for a machine");
        }
        if let Some(wrong_one) = self.packages.iter().find(|name| !package(name)) {
            return wrong("package", wrong_one, "is no name of a package");
        }
        if let Some(wrong_one) = self.mirror.as_deref().filter(|name| !mirror(name)) {
            return wrong(
                "mirror",
                wrong_one,
                "is no address of an archive, such as http://deb.debian.org/debian",
            );
        }
        Ok(())
    }

    /// All packages, by name.
    pub(crate) fn all_packages(&self) -> Vec<&str> {
        let mut all: Vec<_> = PACKAGES.into_iter().chain(self.packages.iter().map(String::as_str)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Everything that shapes the system, in words; the same words make the same system.
    pub(crate) fn words(&self) -> String {
        let Self { suite, size, user, password, ssh_key, hostname, packages: _, mirror } = self;
        let mut words = format!("debian {suite}\nsize {size}\nuser {user}\nhostname {hostname}\n");
        // Who reads the words may not know the password.
        let secret = password.as_deref().map(|text| crc32fast::hash(text.as_bytes()));
        let _infallible = writeln!(
            words,
            "password {secret:?}\nssh-key {ssh_key:?}\nmirror {mirror:?}\npackages {}",
            self.all_packages().join(" ")
        );
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: impl FnOnce(&mut Recipe)) -> String {
        let mut recipe = Recipe::default();
        change(&mut recipe);
        recipe.check().unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_option_is_named() {
        Recipe::default().check().unwrap();
        assert_eq!(wrong(|recipe| recipe.size = 5 << 20), "--size 5M: is too small: at least 2G");
        assert_eq!(wrong(|recipe| recipe.user = "root".into()), "--user root: is no name for a user");
        assert_eq!(wrong(|recipe| recipe.user = "a b".into()), "--user a b: is no name for a user");
        assert_eq!(
            wrong(|recipe| recipe.packages = vec!["-x".into()]),
            "--package -x: is no name of a package"
        );
        assert_eq!(wrong(|recipe| recipe.hostname = "-".into()), "--hostname -: is no name for a machine");
        assert!(
            wrong(|recipe| recipe.mirror = Some("nowhere".into()))
                .starts_with("--mirror nowhere: is no address")
        );
        assert!(wrong(|recipe| recipe.suite = "$(x)".into()).starts_with("--suite $(x): is no name"));
        // What is refused is not repeated.
        assert_eq!(wrong(|recipe| recipe.password = Some("a\nb".into())), "--password : must be one line");
    }

    #[test]
    fn whatever_shapes_the_system_changes_the_words() {
        let words = |change: &dyn Fn(&mut Recipe)| {
            let mut recipe = Recipe::default();
            change(&mut recipe);
            recipe.words()
        };
        let all = [
            words(&|_| {}),
            words(&|recipe| recipe.size += 1),
            words(&|recipe| recipe.suite = "trixie".into()),
            words(&|recipe| recipe.user = "ann".into()),
            words(&|recipe| recipe.password = Some("x".into())),
            words(&|recipe| recipe.ssh_key = Some("ssh-ed25519 x".into())),
            words(&|recipe| recipe.hostname = "x".into()),
            words(&|recipe| recipe.packages.push("fio".into())),
            words(&|recipe| recipe.mirror = Some("file:/x".into())),
        ];
        let different: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert!(!words(&|recipe| recipe.password = Some("secret".into())).contains("secret"));
    }
}
