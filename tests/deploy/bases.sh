#!/bin/sh
# Make images that stand in for the FROM lines, where no image registry can be reached:
#
#   tests/deploy/bases.sh ENGINE NAME...     e.g. tests/deploy/bases.sh docker debian:bookworm-slim
#
# They are made by debootstrap from the distributions' own packages, and trust the authorities that
# this machine trusts. An image that is there already stays.
set -eu
engine=$1
shift

make_root() { # SUITE FOLDER SCRIPT [OPTION...]
	suite=$1 root=$2 script=$3
	shift 3
	debootstrap --variant=minbase "$@" "$suite" "$root" "" \
		"/usr/share/debootstrap/scripts/$script" >"$root.log" 2>&1 || {
		tail -5 "$root.log" >&2
		exit 1
	}
	rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* \
		"$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale
	# Installing ca-certificates, which the Dockerfile does, adds these to the trusted ones.
	mkdir -p "$root/usr/local/share/ca-certificates"
	cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/" \
		2>/dev/null || :
	printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$root/etc/pip.conf"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for name in "$@"; do
	! $engine image inspect "$name" >/dev/null 2>&1 || continue
	case $name in
	debian:bookworm*)
		make_root bookworm "$work/root" bookworm
		tar -C "$work/root" -c . | $engine import - "$name" >/dev/null
		;;
	nvidia/cuda:*ubuntu24.04)
		# Debian's debootstrap knows no noble; all of Ubuntu's suites are made like gutsy.
		make_root noble "$work/root" gutsy --no-check-gpg --components=main,universe
		tar -C "$work/root" -c . | $engine import - "$name" >/dev/null
		;;
	prom/prometheus:*)
		# Debian's Prometheus, with the arguments of the official image.
		"$0" "$engine" debian:bookworm-slim
		printf '%s\n' 'FROM debian:bookworm-slim' \
			'RUN apt-get update && apt-get install -y --no-install-recommends prometheus' \
			'RUN install -d -o nobody /prometheus' 'USER nobody' 'VOLUME /prometheus' \
			'ENTRYPOINT ["prometheus"]' \
			'CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]' |
			$engine build --network host --tag "$name" - >"$work/log" 2>&1 || {
			tail -5 "$work/log" >&2
			exit 1
		}
		;;
	*)
		echo "bases: no stand-in for $name" >&2
		exit 2
		;;
	esac
	rm -rf "$work/root"
	echo "$name"
done
