// Reads a checkpoint and two proofs with Go's own transparency-log packages, which share no line with ours.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type question struct {
	Key, Note              string
	Leaf                   []byte
	Index, Older           int64
	OlderRoot              []byte
	Inclusion, Consistency [][]byte
}

func hash(raw []byte) (found tlog.Hash) {
	copy(found[:], raw)
	return found
}

func hashes(raw [][]byte) []tlog.Hash {
	found := make([]tlog.Hash, len(raw))
	for i, each := range raw {
		found[i] = hash(each)
	}
	return found
}

func check(asked question) error {
	verifier, err := note.NewVerifier(asked.Key)
	if err != nil {
		return err
	}
	opened, err := note.Open([]byte(asked.Note), note.VerifierList(verifier))
	if err != nil {
		return err
	}
	lines := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return err
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return err
	}
	if err := tlog.CheckRecord(hashes(asked.Inclusion), size, root, asked.Index, tlog.RecordHash(asked.Leaf)); err != nil {
		return fmt.Errorf("inclusion: %w", err)
	}
	if err := tlog.CheckTree(hashes(asked.Consistency), size, root, asked.Older, hash(asked.OlderRoot)); err != nil {
		return fmt.Errorf("consistency: %w", err)
	}
	return nil
}

func main() {
	var asked question
	err := json.NewDecoder(os.Stdin).Decode(&asked)
	if err == nil {
		err = check(asked)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("believed")
}
