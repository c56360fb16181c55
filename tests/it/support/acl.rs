// SPDX-License-Identifier: MIT
//! POSIX ACLs as the kernel keeps them in `system.posix_acl_*`: version 2, then 8 bytes each.

pub(crate) const ACCESS: &str = "system.posix_acl_access";
pub(crate) const DEFAULT: &str = "system.posix_acl_default";

/// One entry of an ACL with its permission bits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ace {
    Owner(u16),
    User(u32, u16),
    OwningGroup(u16),
    Group(u32, u16),
    Mask(u16),
    Other(u16),
}

/// The xattr value of an ACL; entries in the kernel's order.
pub(crate) fn encode(entries: &[Ace]) -> Vec<u8> {
    let mut out = 2_u32.to_le_bytes().to_vec();
    for entry in entries {
        let (tag, perm, id) = match *entry {
            Ace::Owner(p) => (1_u16, p, u32::MAX),
            Ace::User(id, p) => (2, p, id),
            Ace::OwningGroup(p) => (4, p, u32::MAX),
            Ace::Group(id, p) => (8, p, id),
            Ace::Mask(p) => (0x10, p, u32::MAX),
            Ace::Other(p) => (0x20, p, u32::MAX),
        };
        out.extend(tag.to_le_bytes());
        out.extend(perm.to_le_bytes());
        out.extend(id.to_le_bytes());
    }
    out
}
