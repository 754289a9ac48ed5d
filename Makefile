# `make demo` and `make test` are all that anyone needs to type; both install what is missing first.
.PHONY: demo test bench audit packages lint

# Image builds are kept here, outside the checkout, under the hash of their recipe.
export CLOUDLET_NODE__IMAGE_STORE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cloudlet/images

demo: packages
	cargo build --release --locked -p node -p handheld
	target/release/cloudlet demo

test: packages lint
	.ci/checks/no-sockets
	.ci/checks/no-sockets --self-check
	cargo build --locked -p node -p handheld
	target/debug/cloudlet image build all
	cargo test --workspace --locked

# Cached VM against cold boot, memory of idle clones, twenty at once; about 12 minutes, most of them cold boots.
bench: packages
	cargo build --release --locked -p node -p handheld
	target/release/cloudlet image build all
	cargo bench --locked -p node --bench ready

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

# Bans, licences, sources and advisories of every dependency.
audit: packages
	.ci/checks/audit
	.ci/checks/audit --self-check

packages:
	node/packaging/system-packages
