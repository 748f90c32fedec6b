//! As much of ELF (64 bit, little endian) as a builder needs: is a program static, what does a module depend on.
//!
//! Offsets are those of `Elf64_Ehdr`, `Elf64_Phdr` and `Elf64_Shdr` in the System V ABI. Files may be damaged, so
//! every offset is checked.

/// Type of a program header that names a dynamic linker.
const PT_INTERP: u32 = 3;

/// `e_machine` of x86-64.
const EM_X86_64: u16 = 62;

/// A file that is not what was hoped for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// not a 64-bit little-endian ELF file
    #[error("not a 64-bit ELF file")]
    NotElf,
    /// made for another CPU
    #[error("made for another CPU (ELF machine {0}, expected {EM_X86_64})")]
    Machine(u16),
    /// headers that point outside the file
    #[error("damaged ELF file: {0} lies outside the file")]
    Damaged(&'static str),
}

/// A parsed ELF header over the whole file.
pub struct Elf<'a> {
    bytes: &'a [u8],
}

impl<'a> Elf<'a> {
    /// Checks that `bytes` are an ELF file for this architecture.
    ///
    /// # Errors
    /// [`ElfError::NotElf`] or [`ElfError::Machine`].
    pub fn parse(bytes: &'a [u8]) -> Result<Elf<'a>, ElfError> {
        if bytes.len() < 64 || !bytes.starts_with(b"\x7fELF\x02\x01") {
            return Err(ElfError::NotElf);
        }
        let elf = Elf { bytes };
        match elf.u16(18) {
            Some(EM_X86_64) => Ok(elf),
            machine => Err(ElfError::Machine(machine.unwrap_or(0))),
        }
    }

    /// Whether the program needs a dynamic linker.
    ///
    /// # Errors
    /// [`ElfError::Damaged`].
    pub fn has_interpreter(&self) -> Result<bool, ElfError> {
        let damaged = ElfError::Damaged("the program header table");
        let (start, size, count) = self.table(32, 54, 56).ok_or(damaged.clone())?;
        for index in 0..count {
            let header = start.checked_add(index * size).ok_or(damaged.clone())?;
            if self.u32(header).ok_or(damaged.clone())? == PT_INTERP {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Content of a section, `None` when there is no such section.
    ///
    /// # Errors
    /// [`ElfError::Damaged`].
    pub fn section(&self, name: &str) -> Result<Option<&'a [u8]>, ElfError> {
        let damaged = ElfError::Damaged("the section header table");
        let (start, size, count) = self.table(40, 58, 60).ok_or(damaged.clone())?;
        let names = usize::from(self.u16(62).ok_or(damaged.clone())?);
        let names = self.section_at(start, size, names).ok_or(damaged.clone())?;
        for index in 0..count {
            let header = start.checked_add(index * size).ok_or(damaged.clone())?;
            let offset = self.u32(header).ok_or(damaged.clone())? as usize;
            let rest = names.get(offset..).ok_or(damaged.clone())?;
            if rest.split(|b| *b == 0).next() == Some(name.as_bytes()) {
                return self.section_at(start, size, index).map(Some).ok_or(ElfError::Damaged("a section"));
            }
        }
        Ok(None)
    }

    /// Start, entry size and number of entries of a header table whose fields are at these offsets.
    fn table(&self, start: usize, size: usize, count: usize) -> Option<(usize, usize, usize)> {
        Some((usize::try_from(self.u64(start)?).ok()?, self.u16(size)?.into(), self.u16(count)?.into()))
    }

    fn section_at(&self, start: usize, size: usize, index: usize) -> Option<&'a [u8]> {
        let header = start.checked_add(index * size)?;
        let offset = usize::try_from(self.u64(header.checked_add(24)?)?).ok()?;
        let length = usize::try_from(self.u64(header.checked_add(32)?)?).ok()?;
        self.bytes.get(offset..offset.checked_add(length)?)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(self.array(at)?))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.array(at)?))
    }

    fn u64(&self, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(self.array(at)?))
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file with one program header of this type and a section `.modinfo` with this content.
    pub(crate) fn file(program_header: u32, modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.names\0.modinfo\0";
        let mut bytes = vec![0; 64 + 56 + 3 * 64];
        let at = |bytes: &mut Vec<u8>, offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        at(&mut bytes, 0, b"\x7fELF\x02\x01");
        at(&mut bytes, 18, &EM_X86_64.to_le_bytes());
        at(&mut bytes, 32, &64_u64.to_le_bytes());
        at(&mut bytes, 40, &120_u64.to_le_bytes());
        for (offset, value) in [(54, 56_u16), (56, 1), (58, 64), (60, 3), (62, 1)] {
            at(&mut bytes, offset, &value.to_le_bytes());
        }
        at(&mut bytes, 64, &program_header.to_le_bytes());
        for (index, name, content) in [(1, 1_u32, &names[..]), (2, 8, modinfo)] {
            let (header, end) = (120 + index * 64, bytes.len() as u64);
            at(&mut bytes, header, &name.to_le_bytes());
            at(&mut bytes, header + 24, &end.to_le_bytes());
            at(&mut bytes, header + 32, &(content.len() as u64).to_le_bytes());
            bytes.extend_from_slice(content);
        }
        bytes
    }

    #[test]
    fn interpreter_and_sections_are_found() {
        let bytes = file(PT_INTERP, b"depends=a");
        let elf = Elf::parse(&bytes).unwrap();
        assert_eq!(elf.has_interpreter(), Ok(true));
        assert_eq!(elf.section(".modinfo"), Ok(Some(&b"depends=a"[..])));
        assert_eq!(elf.section(".text"), Ok(None));
        assert_eq!(Elf::parse(&file(1, b"")).unwrap().has_interpreter(), Ok(false));
    }

    #[test]
    fn this_test_is_an_elf_file() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = Elf::parse(&bytes).unwrap();
        assert!(elf.section(".text").unwrap().is_some());
    }

    #[test]
    fn other_files_are_refused() {
        assert_eq!(Elf::parse(b"#!/bin/sh\n").err(), Some(ElfError::NotElf));
        let mut bytes = file(1, b"");
        bytes[18] = 183;
        assert_eq!(Elf::parse(&bytes).err(), Some(ElfError::Machine(183)));
    }

    proptest! {
        #[test]
        fn damaged_files_do_not_panic(cut in 0_usize..400, at in 0_usize..312, value: u8) {
            let mut bytes = file(PT_INTERP, b"depends=a,b");
            bytes[at] = value;
            bytes.truncate(cut.max(1));
            if let Ok(elf) = Elf::parse(&bytes) {
                let _ = elf.has_interpreter();
                let _ = elf.section(".modinfo");
            }
        }
    }
}
