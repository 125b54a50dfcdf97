//! Answers to clients that get no other, written as they are.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tracing::debug;

/// Time for a client to take such an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// To one beyond the cap.
pub(super) const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 21\r\nretry-after: 5\r\nconnection: close\r\n\r\ntoo many connections\n";

/// To one that asks without TLS where TLS is spoken.
pub(super) const NOT_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 28\r\nconnection: close\r\n\r\nTLS is needed: ask https://\n";

/// Says why, and waits for the client to close: a close on unread bytes resets the connection,
/// and the client would never see the answer. What the client still sends is thrown away.
pub(super) async fn turn_away(mut stream: TcpStream, answer: &[u8]) {
    let farewell = async {
        stream.writable().await?;
        stream.try_write(answer)?;
        poll_fn(|context| Pin::new(&mut stream).poll_shutdown(context)).await?;
        let mut scrap = [0; 4096];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut scrap) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    };
    if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, farewell).await {
        debug!(error = &error as &dyn std::error::Error, "client gone before its answer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_length_they_name() {
        for answer in [BUSY, NOT_TLS] {
            let text = std::str::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        }
    }
}
