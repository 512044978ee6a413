//! Asks the process that runs here whether it may get work: the health check of a container that holds no other program
//! than ours. Blocking and without a runtime, since it asks once and ends.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// How long one may take to answer: below the time-outs that container engines give a check (30 s, 1 s for some).
const PATIENCE: Duration = Duration::from_secs(2);

/// The answer is a head and one word.
const ANSWER_BYTES: u64 = 4096;

/// Whether `/readyz` at this admin address says yes. An address that stands for all interfaces is asked on this machine.
///
/// # Errors
/// What it said instead, or why it said nothing.
pub fn ask(admin: SocketAddr) -> Result<(), String> {
    let address = SocketAddr::new(reachable(admin.ip()), admin.port());
    let answer = readyz(address).map_err(|error| format!("no answer from {address}: {error}"))?;
    if answer.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    let word = answer.lines().last().filter(|line| !line.is_empty()).unwrap_or("no answer that makes sense");
    Err(format!("{address} is not ready: {word}"))
}

fn readyz(address: SocketAddr) -> io::Result<String> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.write_all(format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    socket.take(ANSWER_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}

fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Where one request is answered so.
    fn answers(text: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let _ = socket.read(&mut [0; 512]);
            socket.write_all(text.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn ready_is_healthy() {
        let mut address = answers("HTTP/1.1 200 OK\r\n\r\nready\n");
        address.set_ip(Ipv4Addr::UNSPECIFIED.into());
        assert_eq!(ask(address), Ok(()));
    }

    #[test]
    fn draining_is_told() {
        let told = ask(answers("HTTP/1.1 503 Service Unavailable\r\n\r\ndraining\n")).unwrap_err();
        assert!(told.ends_with("is not ready: draining"), "{told}");
    }

    #[test]
    fn nobody_is_unhealthy() {
        let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(ask(nowhere).unwrap_err().starts_with("no answer from 127.0.0.1:"));
    }
}
