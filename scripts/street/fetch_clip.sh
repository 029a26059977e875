#!/usr/bin/env bash
# Puts the street clip (vtest.avi, 768x576, 795 frames) into a folder and prints its path.
#
#   scripts/street/fetch_clip.sh DIR            from Debian's or Ubuntu's package opencv-doc
#   STREET_CLIP=FILE scripts/street/fetch_clip.sh DIR    from a file that is there already
#
# A clip that is in DIR already is kept. Nothing is installed: the package is only unpacked.
set -euo pipefail

folder=${1:?usage: [STREET_CLIP=FILE] fetch_clip.sh DIR}
clip=$folder/vtest.avi

fail() {
  echo "fetch_clip.sh: $1" >&2
  echo "fetch_clip.sh: get vtest.avi (OpenCV's sample data) by hand and pass STREET_CLIP=FILE" >&2
  exit 1
}

keep() { # copies to another name and renames: a partial copy never looks complete
  cp -- "$1" "$clip.part"
  mv -- "$clip.part" "$clip"
}

mkdir -p -- "$folder"
if [[ -n ${STREET_CLIP:-} ]]; then
  [[ -s $STREET_CLIP ]] || fail "STREET_CLIP=$STREET_CLIP: no such file, or an empty one"
  [[ $STREET_CLIP -ef $clip ]] || keep "$STREET_CLIP"
elif [[ ! -s $clip ]]; then
  for program in apt-get dpkg-deb; do
    command -v "$program" >/dev/null || fail "no $program here: the clip comes from a Debian package"
  done
  work=$(mktemp -d)
  trap 'rm -rf -- "$work"' EXIT
  download() { (cd "$work" && apt-get download -q opencv-doc >download.log 2>&1); }
  if ! download; then
    apt-get update -q >"$work/update.log" 2>&1 || true
    download || fail "apt-get download opencv-doc: $(tail -n 1 "$work/download.log")"
  fi
  dpkg-deb -x "$work"/opencv-doc_*.deb "$work/unpacked"
  found=$(find "$work/unpacked" -name vtest.avi -print -quit)
  [[ -n $found ]] || found=$(find "$work/unpacked" -name vtest.avi.gz -print -quit)
  [[ -n $found ]] || fail "this version of opencv-doc has no vtest.avi"
  if [[ $found == *.gz ]]; then
    gunzip -- "$found"
    found=${found%.gz}
  fi
  keep "$found"
fi
echo "$clip"
