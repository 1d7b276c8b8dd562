//! Bodies of requests and responses: four bytes of length, big-endian, then the bytes.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response::Codec;

#[derive(Debug, Clone, Copy)]
pub(super) struct LengthPrefixed {
    pub(super) max_request: usize,
    pub(super) max_response: usize,
}

impl Codec for LengthPrefixed {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, self.max_request).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, self.max_response).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, body: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &body, self.max_request).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, body: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &body, self.max_response).await
    }
}

async fn read<T: AsyncRead + Unpin + Send>(io: &mut T, max: usize) -> io::Result<Vec<u8>> {
    let mut prefix = [0; 4];
    io.read_exact(&mut prefix).await?;
    let length = u32::from_be_bytes(prefix);
    let length = usize::try_from(length).ok().filter(|l| *l <= max).ok_or_else(|| too_large(length, max))?;
    let mut body = vec![0; length];
    io.read_exact(&mut body).await?;
    Ok(body)
}

async fn write<T: AsyncWrite + Unpin + Send>(io: &mut T, body: &[u8], max: usize) -> io::Result<()> {
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= max);
    let length = length.ok_or_else(|| too_large(body.len(), max))?;
    io.write_all(&length.to_be_bytes()).await?;
    io.write_all(body).await?;
    io.flush().await
}

fn too_large(length: impl std::fmt::Display, max: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{length} bytes exceed the limit of {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;

    #[test]
    fn a_body_comes_back_as_it_was_written() {
        for length in [0, 1, 300, 16384] {
            let body = vec![7; length];
            let mut wire = Cursor::new(Vec::new());
            block_on(write(&mut wire, &body, 16384)).unwrap();
            wire.set_position(0);
            assert_eq!(block_on(read(&mut wire, 16384)).unwrap(), body);
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_any_byte_of_the_body_is_read() {
        let mut wire = Cursor::new(u32::MAX.to_be_bytes().to_vec());
        assert_eq!(block_on(read(&mut wire, 16384)).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut wire = Cursor::new(16385u32.to_be_bytes().to_vec());
        assert_eq!(block_on(read(&mut wire, 16384)).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let refused = block_on(write(&mut Cursor::new(Vec::new()), &[0; 11], 10)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_body_that_ends_early_is_an_error() {
        let mut wire = Cursor::new([&5u32.to_be_bytes()[..], b"four"].concat());
        assert_eq!(block_on(read(&mut wire, 10)).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
