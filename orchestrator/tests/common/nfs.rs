//! Calls to an NFS server, in the form in which a client makes them.

/// The programs of the server and their versions.
pub(crate) const PORTMAP: (u32, u32) = (100_000, 2);
pub(crate) const MOUNT: (u32, u32) = (100_005, 3);
pub(crate) const NFS: (u32, u32) = (100_003, 3);

/// The longest call that the server reads, in bytes.
pub(crate) const MOST_BYTES: usize = (1 << 20) + (4 << 10);

/// Arguments of a call, as they are encoded.
#[derive(Default, Clone)]
pub(crate) struct Arguments(pub(crate) Vec<u8>);

impl Arguments {
    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn opaque(self, bytes: &[u8]) -> Self {
        let mut arguments = self.u32(bytes.len() as u32);
        arguments.0.extend(bytes);
        arguments.0.resize(arguments.0.len().next_multiple_of(4), 0);
        arguments
    }
}

pub(crate) fn arguments() -> Arguments {
    Arguments::default()
}

/// Encodes a call with the number 7 and without credentials.
pub(crate) fn call((program, version): (u32, u32), procedure: u32, arguments: &Arguments) -> Vec<u8> {
    let header = [7, 0, 2, program, version, procedure, 0, 0, 0, 0];
    let mut call: Vec<u8> = header.into_iter().flat_map(u32::to_be_bytes).collect();
    call.extend(&arguments.0);
    call
}

/// Adds the marker of a message that consists of one fragment.
pub(crate) fn marked(message: &[u8]) -> Vec<u8> {
    [&((1_u32 << 31) | message.len() as u32).to_be_bytes(), message].concat()
}

/// The results of a call, read from the beginning.
#[derive(Clone, Copy)]
pub(crate) struct Results<'a>(pub(crate) &'a [u8]);

impl<'a> Results<'a> {
    /// Reads the header of an answer to [`call`], which says that the call was carried out.
    #[track_caller]
    pub(crate) fn of(answer: &'a [u8]) -> Self {
        let mut results = Self(answer);
        let header: Vec<u32> = (0..6).map(|_| results.u32()).collect();
        assert_eq!(header, [7, 1, 0, 0, 0, 0]);
        results
    }

    #[track_caller]
    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }

    #[track_caller]
    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    #[track_caller]
    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes(8).try_into().unwrap())
    }

    #[track_caller]
    pub(crate) fn opaque(&mut self) -> &'a [u8] {
        let len = self.u32() as usize;
        let bytes = self.bytes(len);
        self.bytes(len.next_multiple_of(4) - len);
        bytes
    }

    /// Reads attributes that may be absent. Returns the size of the file, which they contain.
    #[track_caller]
    pub(crate) fn attributes(&mut self) -> Option<u64> {
        (self.u32() == 1).then(|| {
            self.bytes(20);
            let size = self.u64();
            self.bytes(56);
            size
        })
    }
}
