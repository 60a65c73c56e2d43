package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"path"
	"slices"
)

// A tree is the files of a tar file that is always the same: sorted, of root, and of
// no time. The zero tree is empty.
type tree struct {
	entries map[string]entry // by path, without a slash before it
}

type entry struct {
	header tar.Header
	data   []byte
}

func (t *tree) add(name string, e entry) {
	if t.entries == nil {
		t.entries = map[string]entry{}
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		t.entries[dir] = entry{header: tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}}
	}
	e.header.Name = name
	t.entries[name] = e
}

// file adds a file, with the directories above it.
func (t *tree) file(name string, data []byte, mode int64) {
	t.add(name, entry{tar.Header{Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data))}, data})
}

// link adds a symbolic link.
func (t *tree) link(name, to string) {
	t.add(name, entry{header: tar.Header{Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}})
}

// blob adds a file of an OCI layout, which is known by its hash, and returns its path.
func (t *tree) blob(data []byte) string {
	name := fmt.Sprintf("blobs/sha256/%x", sha256.Sum256(data))
	t.file(name, data, 0o644)
	return name
}

func (t *tree) tar() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(t.entries)) {
		e := t.entries[name]
		if err := w.WriteHeader(&e.header); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}
