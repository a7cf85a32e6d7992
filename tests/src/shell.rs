//! Guests in their shell, driven from outside.

use crate::{BOOT, Bus, Image, JOB, Kernel, Machine, Running, root_image};

impl Running {
    /// A guest in its shell, whose kernel does not speak in between, with a control socket in the folder of `image`;
    /// `append` goes to the kernel's command line.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn shell(image: &Image, options: &[&str], append: &[&str]) -> Self {
        Self::shell_of(Kernel::Cloud, image, options, append)
    }

    /// As [`shell`](Self::shell), with another kernel.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn shell_of(kernel: Kernel, image: &Image, options: &[&str], append: &[&str]) -> Self {
        let machine = Machine::bodhi(kernel).disk_with(&root_image(), Bus::Auto, ",snapshot");
        let machine = append.iter().fold(machine, |machine, word| machine.append(word));
        let running = machine.options(options).append("loglevel=1").api(image.folder().join("api")).start();
        running.expect("bodhi: shell", BOOT);
        running
    }

    /// What `command` prints in the guest's shell.
    ///
    /// # Panics
    /// If the guest does not answer.
    pub fn ask(&mut self, command: &str) -> String {
        // What is typed is printed too, and must not look like the answer.
        self.type_line(&format!("echo an''swer; {command}; echo en''ough"));
        self.expect("answer\r\n", JOB);
        self.expect_with("enough", JOB).0.trim().to_owned()
    }
}
