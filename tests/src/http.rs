//! A server of files for boot loaders and guests.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

/// What is to be had under a name.
pub enum Content {
    /// These bytes.
    Text(String),
    /// What is in the file.
    File(PathBuf),
}

/// Serves what `contents` makes of the server's port, on the host's loopback, for as long as the test runs. The port.
///
/// # Panics
/// If the host does not allow it.
pub fn serve(contents: impl FnOnce(u16) -> Vec<(&'static str, Content)>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let contents = contents(port);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away is its own affair: what it misses, the test does.
            let _ = answer(stream, &contents);
        }
    });
    port
}

fn answer(mut stream: TcpStream, contents: &[(&str, Content)]) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let name = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let name = name.split('?').next().unwrap_or_default();
    let content = contents.iter().find(|(known, _)| *known == name).map(|(_, content)| content);
    let (status, len, mut bytes): (_, _, Box<dyn Read>) = match content {
        Some(Content::Text(text)) => ("200 OK", text.len() as u64, Box::new(text.as_bytes())),
        Some(Content::File(path)) => {
            let file = File::open(path)?;
            ("200 OK", file.metadata()?.len(), Box::new(file))
        }
        None => ("404 Not Found", 0, Box::new(io::empty())),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n")?;
    io::copy(&mut bytes, &mut stream)?;
    Ok(())
}
