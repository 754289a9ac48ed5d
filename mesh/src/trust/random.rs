//! Random numbers for keys: from the operating system, as nothing else is a secret.

use rand::TryRng as _;
use rand::rngs::SysRng;

use super::error::Error;

pub(super) fn bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).map_err(Error::Random)?;
    Ok(bytes)
}
