# Included by the Makefile: everything about other machines. See cross/README.md.

BOARDS := arm-unknown-linux-musleabihf i686-unknown-linux-musl
PREFIX ?= /usr/local

.PHONY: cross cross-all cross-test verify emulate init-test install uninstall dist

# An aged list of what the linker lays together is written anew, and both are built with it.
cross: $(BOARDS:%=cross-%) ## static binaries for the Pi Zero and the netbook, in dist/
	@. cross/lib.sh; command -v qemu-arm-static >/dev/null || apt_install qemu-user-static || :; \
	cross/order --if-aged; [ $$? != 3 ] || for t in $(BOARDS); do cross/build "$$t" || exit 1; done

cross-all: tools ## the same for every target in cross/targets
	@for t in $$(sed -n 's/^\([a-z][^ ]*\) .*/\1/p' cross/targets); do cross/build "$$t" || exit 1; done

cross-%: tools ## one target of cross/targets: make cross-aarch64-unknown-linux-musl
	@cross/build $*

verify: ## look into the binaries in dist/, weigh them, run them as the oldest CPU they are for
	@cross/verify

cross-test: tools ## the socket tests of `make test` against the Pi Zero's and the netbook's binary
	@cross/test

emulate: ## boot the emulated Pi Zero and netbook with the binaries in dist/ and use alvus there
	@cross/emulate

init-test: build ## try the init scripts with the real start-stop-daemon, OpenRC and systemd
	@cross/init/try

install: ## target/release/alvus (or BIN=FILE) and init scripts under $(DESTDIR)$(PREFIX)
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" cross/install "$(or $(BIN),target/release/alvus)"

uninstall: ## removes what install put there; /etc/alvus stays
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" cross/install --remove

dist: ## tarballs, .debs, OCI image, SBOM, release note and SHA256SUMS of all that is in dist/
	@cross/dist
