#!/bin/sh
# The test of a release: a collection is made, written, searched, counted and deleted again through the API. Only the shell's
# own words are used: the image has no other program.
set -eu

name=helm-test
fail() {
    echo "FAILED: $1" >&2
    exit 1
}

# What an earlier test that was cut off left behind.
flotilla collections delete "$name" --yes --to "$API" 2> /dev/null || true
flotilla collections create "$name" --vector default:4:cosine --to "$API"
flotilla import --collection "$name" --records "$TEST_DIR/records.jsonl" --vector-field vector --key id --to "$API"
count=$(flotilla count --collection "$name" --to "$API")
case "$count" in
    *'"count":3,'*) ;;
    *) fail "3 records were written, and the count is $count" ;;
esac
found=$(flotilla search --collection "$name" --vector '[0, 1, 0, 0]' --limit 1 --output json --to "$API")
case "$found" in
    *'"second"'*) ;;
    *) fail "the nearest record is not the one that was written: $found" ;;
esac
flotilla verify --collection "$name" --to "$API"
flotilla collections delete "$name" --yes --to "$API"
echo "good: written, counted, found, verified, deleted"
