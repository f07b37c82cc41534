#!/usr/bin/env bash
# Installs what boots images on this machine, as far as it may, and names the rest.
#   vm-tools.sh          QEMU, and vhost-device-vsock where the kernel has no vhost-vsock: what `caped dev --enclave qemu` needs
#   vm-tools.sh --nitro  also QEMU's nitro-enclave machine, and a vhost-device-vsock whose parent is CID 3 as on Nitro: what `make image-test`
#                        needs; some ten minutes on two processors, once
# Own builds go to bin/ below $CAPE_TOOLS, else $XDG_CACHE_HOME/cape-tools, else ~/.cache/cape-tools. Exit status 1: something is missing.
set -euo pipefail

tools=${CAPE_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/cape-tools}
crate=vhost-device-vsock
crate_version=0.3.0
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=${CAPE_DEBIAN_MIRROR:-http://deb.debian.org/debian}
export PATH=$tools/bin:$PATH
missing=()

have() { command -v "$1" >/dev/null; }
may_install() { [ "$(id -u)" = 0 ] && have apt-get; }
say() { echo "vm-tools: $*" >&2; }

# packages NAME...: installs packages of the distribution.
packages() {
  say "installing $*"
  apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
}

qemu() {
  have qemu-system-x86_64 && [ -e /usr/share/qemu ] && return
  if may_install && packages qemu-system-x86; then return; fi
  missing+=("qemu-system-x86_64 (Debian: apt-get install qemu-system-x86)")
}

vsock_device() {
  if [ -c /dev/vhost-vsock ] || have $crate; then return; fi
  if ! have cargo; then
    missing+=("$crate (cargo install $crate --version $crate_version; Rust: https://rustup.rs)")
    return
  fi
  say "building $crate $crate_version"
  cargo install -q --locked --version $crate_version --root "$tools" $crate || missing+=("$crate: cargo could not build it")
}

has_nitro() { "$1" -M help 2>/dev/null | grep -q '^nitro-enclave '; }

# QEMU's nitro-enclave machine wants libcbor and gnutls, and Debian builds without the first.
nitro_qemu() {
  if [ -x "$tools/bin/qemu-system-x86_64" ] && has_nitro "$tools/bin/qemu-system-x86_64"; then return; fi
  if ! may_install || [ ! -e $keyring ]; then
    missing+=("QEMU 9.2 or newer with the nitro-enclave machine (configure it with --enable-libcbor --enable-gnutls --enable-vhost-user, put it into $tools/bin)")
    return
  fi
  packages build-essential bison flex libcbor-dev libfdt-dev libglib2.0-dev libgnutls28-dev libpixman-1-dev ninja-build pkg-config python3-venv xz-utils dpkg-dev
  local work
  work=$(mktemp -d)
  (build_qemu "$work") || missing+=("QEMU's nitro-enclave machine: the build in $work failed")
  has_nitro "$tools/bin/qemu-system-x86_64" && rm -rf "$work"
}

# build_qemu DIR: from the source package of Debian 13, fetched by apt with lists of its own, so that the machine's stay as they are.
build_qemu() {
  set -e
  cd "$1"
  mkdir -p lists/partial cache none
  : >status
  echo "deb-src [signed-by=$keyring] $mirror trixie main" >sources.list
  local options=(-qq -o Dir::Etc::sourcelist="$1/sources.list" -o Dir::Etc::sourceparts="$1/none" -o Dir::State::lists="$1/lists"
    -o Dir::State::status="$1/status" -o Dir::Cache="$1/cache" -o APT::Sandbox::User=root
    -o Acquire::AllowInsecureRepositories=0 -o Acquire::AllowWeakRepositories=0 -o Acquire::AllowDowngradeToInsecureRepositories=0
    -o APT::Get::AllowUnauthenticated=0)
  apt-get "${options[@]}" update
  say "building QEMU's nitro-enclave machine, some eight minutes on two processors"
  apt-get "${options[@]}" source --download-only qemu
  mkdir source build
  tar -xf qemu_*.orig.tar.xz -C source --strip-components=1
  # Debian's tarball is without the firmware of another architecture that this rule unpacks.
  sed -i 's/^if unpack_edk2_blobs/if false/' source/pc-bios/meson.build
  python3 -m venv python
  python/bin/pip install -q meson==1.5.0 pycotap==1.3.1 setuptools tomli
  cd build
  ../source/configure --python="$1/python/bin/python3" --prefix="$tools" --target-list=x86_64-softmmu --without-default-features --enable-tcg --enable-kvm \
    --enable-gnutls --enable-libcbor --enable-pixman --enable-vhost-user --enable-fdt=system --disable-install-blobs >configure.log
  nice -n 5 ninja qemu-system-x86_64 >ninja.log
  mkdir -p "$tools/bin"
  install qemu-system-x86_64 "$tools/bin/"
}

# On Nitro the parent is CID 3; vhost-device-vsock plays CID 2. One constant is the difference.
nitro_vsock() {
  have vhost-vsock-cid3 && return
  if ! have cargo; then
    missing+=("vhost-vsock-cid3: $crate with VSOCK_HOST_CID 3 (needs Rust: https://rustup.rs)")
    return
  fi
  local work
  work=$(mktemp -d)
  say "building $crate $crate_version with the parent at CID 3"
  (build_vsock "$work") || missing+=("vhost-vsock-cid3: the build in $work failed")
  have vhost-vsock-cid3 && rm -rf "$work"
}

build_vsock() {
  set -e
  cd "$1"
  cargo init -q --vcs none --name fetch .
  cargo add -q $crate@=$crate_version 2>/dev/null
  cargo vendor -q --versioned-dirs >/dev/null
  cp -r vendor/$crate-$crate_version patched
  rm -f patched/.cargo-checksum.json
  sed -i 's/^\(.*VSOCK_HOST_CID: u64 = \)2;/\13;/' patched/src/*.rs
  grep -rqx '.*VSOCK_HOST_CID: u64 = 3;' patched/src || { say "the source of $crate is not as it was: VSOCK_HOST_CID is not there"; return 1; }
  cd patched
  echo '[workspace]' >>Cargo.toml
  cargo build -q --release --target-dir "$1/target"
  mkdir -p "$tools/bin"
  install "$1/target/release/$crate" "$tools/bin/vhost-vsock-cid3"
}

qemu
vsock_device
if [ "${1:-}" = --nitro ]; then
  nitro_qemu
  nitro_vsock
fi
if [ ${#missing[@]} -gt 0 ]; then
  printf 'vm-tools: missing: %s\n' "${missing[@]}" >&2
  exit 1
fi
