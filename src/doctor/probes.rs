//! What no file of the machine tells: how much room a disk has, how fast it writes, whether the network answers, what the
//! kernel and the clock say. Behind a trait, so that tests say what is found.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// How long another machine has for its answer: a name, a connection and the first words of TLS take well under a second
/// in a house, and two or three over a poor line.
pub const REACH_DEADLINE: Duration = Duration::from_secs(4);

/// How long a program of the system has for its answer; one that waits for a bus that is not there does so for 25 s.
const TOOL_DEADLINE: Duration = Duration::from_secs(5);

/// As much of what it prints is read; one word is wanted.
const MAX_WORDS_BYTES: u64 = 4096;

/// How many writes are timed. Enough that a card's pause for erasing is likely among them, few enough to wear nothing.
const WRITES: usize = 24;
/// What each writes: a page of SQLite or etcd.
const WRITE_BYTES: usize = 4096;
/// When no further write is begun: a card that takes 9 s for one (k3s issue 2644) has shown enough.
const WRITE_DEADLINE: Duration = Duration::from_secs(3);

/// The room of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that may be written by programs.
    pub free_bytes: u64,
    /// Bytes in all.
    pub bytes: u64,
    /// Inodes that are free.
    pub free_inodes: u64,
    /// Inodes in all; 0 where the file system counts none.
    pub inodes: u64,
    /// Whether it takes writes.
    pub access: Writable,
}

/// Whether a file system takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writable {
    /// Yes.
    Yes,
    /// It is mounted read-only.
    No,
}

/// How long small synchronous writes took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// How many were timed.
    pub writes: usize,
    /// The middle one.
    pub median: Duration,
    /// The longest.
    pub worst: Duration,
}

/// How another machine answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// It speaks TLS.
    Tls,
    /// It takes connections, and does not answer as TLS does.
    NotTls(String),
    /// It does not answer.
    Nothing(String),
}

/// Whether something disciplines the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synchronised {
    /// Yes.
    Yes,
    /// No.
    No,
    /// Nobody could be asked.
    Unknown,
}

/// What is asked of the machine beside its files.
pub trait Probes {
    /// Seconds since 1970 by the machine's clock.
    fn unix_seconds(&self) -> u64;

    /// The kernel's machine name (`uname -m`): `armv7l`, `aarch64`, `x86_64`.
    fn kernel_machine(&self) -> String;

    /// Whether the clock is synchronised.
    fn synchronised(&self) -> Synchronised;

    /// The room of the file system that holds `path`.
    ///
    /// # Errors
    /// Those of the file system.
    fn room(&self, path: &Path) -> io::Result<Room>;

    /// Times small synchronous writes in `folder`, and leaves nothing there.
    ///
    /// # Errors
    /// Those of the file system.
    fn write_latency(&self, folder: &Path) -> io::Result<Latency>;

    /// Whether a TLS server answers, within [`REACH_DEADLINE`].
    fn reach(&self, host: &str, port: u16) -> Reach;
}

/// This machine's.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealProbes;

impl Probes for RealProbes {
    fn unix_seconds(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn kernel_machine(&self) -> String {
        rustix::system::uname().machine().to_string_lossy().into_owned()
    }

    /// systemd's timedated asks the kernel (adjtimex(2), `STA_UNSYNC`), whoever disciplines the clock: timesyncd, chrony, ntpd.
    fn synchronised(&self) -> Synchronised {
        let arguments = ["show", "--property=NTPSynchronized", "--value"];
        match first_words(Path::new("/usr/bin/timedatectl"), &arguments, TOOL_DEADLINE).as_deref() {
            Some("yes") => Synchronised::Yes,
            Some("no") => Synchronised::No,
            Some(_) | None => Synchronised::Unknown,
        }
    }

    fn room(&self, path: &Path) -> io::Result<Room> {
        let found = rustix::fs::statvfs(path)?;
        let read_only = found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
        Ok(Room {
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_inodes: found.f_favail,
            inodes: found.f_files,
            access: if read_only { Writable::No } else { Writable::Yes },
        })
    }

    fn write_latency(&self, folder: &Path) -> io::Result<Latency> {
        let path = folder.join(format!(".beehive-doctor-{}", std::process::id()));
        let timed = time_writes(&path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        timed
    }

    fn reach(&self, host: &str, port: u16) -> Reach {
        // looking a name up has no deadline of its own: whoever waits for it may be left behind
        let (sender, receiver) = mpsc::channel();
        let host = host.to_owned();
        let asked = thread::Builder::new().name("reach".to_owned()).spawn(move || {
            // nobody waits any more
            let _ = sender.send(hello(&host, port));
        });
        match asked {
            Ok(_) => receiver
                .recv_timeout(REACH_DEADLINE)
                .unwrap_or_else(|_| Reach::Nothing(format!("no answer within {} s", REACH_DEADLINE.as_secs()))),
            Err(error) => Reach::Nothing(format!("cannot ask: {error}")),
        }
    }
}

/// What a program prints, if it ends well within `deadline`; else it is ended.
fn first_words(program: &Path, arguments: &[&str], deadline: Duration) -> Option<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    let reader = thread::Builder::new().name("reader".to_owned()).spawn(move || {
        let mut text = String::new();
        let read = stdout.by_ref().take(MAX_WORDS_BYTES).read_to_string(&mut text);
        // nobody waits any more
        let _ = sender.send(read.map(|_| text));
    });
    let said = reader.ok().and_then(|_| receiver.recv_timeout(deadline).ok()?.ok());
    if said.is_none() {
        // it may have ended by itself
        let _ = child.kill();
    }
    let ended = child.wait();
    said.filter(|_| ended.is_ok_and(|status| status.success())).map(|text| text.trim().to_owned())
}

fn time_writes(path: &Path) -> io::Result<Latency> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let page = [0x5a_u8; WRITE_BYTES];
    let begun = Instant::now();
    let mut took = Vec::with_capacity(WRITES);
    while took.is_empty() || (took.len() < WRITES && begun.elapsed() < WRITE_DEADLINE) {
        let write = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        took.push(write.elapsed());
    }
    took.sort();
    let (median, worst) = (took.get(took.len() / 2).copied(), took.last().copied());
    Ok(Latency { writes: took.len(), median: median.unwrap_or_default(), worst: worst.unwrap_or_default() })
}

/// A connection and the first exchange of TLS. No certificate is trusted: it is looked at by who joins, with what the
/// credential says of the authority. That one came is all that counts here.
fn hello(host: &str, port: u16) -> Reach {
    let begun = Instant::now();
    let left = || REACH_DEADLINE.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
    let addresses = match (host, port).to_socket_addrs() {
        Ok(addresses) => addresses.collect::<Vec<_>>(),
        Err(error) => return Reach::Nothing(format!("its name cannot be looked up: {error}")),
    };
    let mut why = "its name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, left()) {
            Ok(stream) => return tls(stream, host, left()),
            Err(error) => why = format!("{address}: {error}"),
        }
    }
    Reach::Nothing(why)
}

fn tls(mut stream: TcpStream, host: &str, deadline: Duration) -> Reach {
    let timed = stream.set_read_timeout(Some(deadline)).and_then(|()| stream.set_write_timeout(Some(deadline)));
    if let Err(error) = timed {
        return Reach::Nothing(error.to_string());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let Ok(config) = config else { return Reach::Nothing("TLS cannot be used here".to_owned()) };
    let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let Ok(name) = ServerName::try_from(host.to_owned()) else {
        return Reach::Nothing("neither a host's name nor an address".to_owned());
    };
    let mut connection = match ClientConnection::new(Arc::new(config), name) {
        Ok(connection) => connection,
        Err(error) => return Reach::Nothing(error.to_string()),
    };
    while connection.is_handshaking() {
        if connection.wants_write() {
            if let Err(error) = connection.write_tls(&mut stream) {
                return Reach::NotTls(error.to_string());
            }
            continue;
        }
        match connection.read_tls(&mut stream) {
            Ok(0) => return Reach::NotTls("it hung up".to_owned()),
            Ok(_) => {}
            Err(error) => return Reach::NotTls(error.to_string()),
        }
        match connection.process_new_packets() {
            Ok(_) => {}
            // it sent its certificate, or said in TLS that it wants another client
            Err(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) => return Reach::Tls,
            Err(error) => return Reach::NotTls(error.to_string()),
        }
    }
    Reach::Tls
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let words = |program: &str, arguments: &[&str], deadline| first_words(Path::new(program), arguments, deadline);
        assert_eq!(words("/bin/echo", &[" yes "], TOOL_DEADLINE).as_deref(), Some("yes"));
        assert_eq!(words("/bin/cat", &["/no/such/file"], TOOL_DEADLINE), None);
        assert_eq!(words("/no/such/program", &[], TOOL_DEADLINE), None);
        let begun = Instant::now();
        assert_eq!(words("/bin/sleep", &["600"], Duration::from_millis(50)), None);
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn writes_are_timed_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let latency = RealProbes.write_latency(folder.path()).unwrap();
        assert!((1..=WRITES).contains(&latency.writes) && latency.median <= latency.worst, "{latency:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(RealProbes.write_latency(&folder.path().join("absent")).is_err());
        let room = RealProbes.room(folder.path()).unwrap();
        assert!(room.bytes >= room.free_bytes && room.access == Writable::Yes, "{room:?}");
    }

    /// Takes one connection and does `with` it.
    fn once(with: impl FnOnce(TcpStream) + Send + 'static) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || with(listener.accept().unwrap().0));
        port
    }

    #[test]
    fn who_speaks_tls_is_told_from_who_does_not_and_from_nobody() {
        let port = once(|mut stream| {
            let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certified.cert.der().clone()], key)
                .unwrap();
            let mut server = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            // the other end hangs up as soon as it has seen enough
            let _ = server.complete_io(&mut stream);
        });
        assert_eq!(RealProbes.reach("127.0.0.1", port), Reach::Tls);
        let port = once(|mut stream| {
            let mut some = [0; 16];
            let _ = stream.read(&mut some);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        });
        assert!(matches!(RealProbes.reach("127.0.0.1", port), Reach::NotTls(_)));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(matches!(RealProbes.reach("127.0.0.1", port), Reach::Nothing(_)));
    }
}
