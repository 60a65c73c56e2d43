package xds

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
)

// A cache is a file with the limits that were received last. The file is a line, cacheMark with a
// checksum, and then the message as the server sent it: the resources, and their version.
type cache struct {
	file           string // "": none
	server, nodeID string // of the limits
	most           int    // bytes of a message
	held           []byte // what the file holds
}

const cacheMark = "ratelimitd limits of xDS, format 1, sha256 "

// errCache is why a cache file is refused.
var errCache = errors.New("it is damaged, or of another server or node id; remove it")

// checksum tells a message of this server for this node from all others.
func (c *cache) checksum(message []byte) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q %q ", c.server, c.nodeID)
	sum.Write(message)
	return hex.EncodeToString(sum.Sum(nil))
}

// encode returns what the file holds for m.
func (c *cache) encode(m *discoveryv3.DiscoveryResponse) ([]byte, error) {
	message, err := proto.MarshalOptions{Deterministic: true}.Marshal(&discoveryv3.DiscoveryResponse{
		VersionInfo: m.GetVersionInfo(), TypeUrl: m.GetTypeUrl(), Resources: m.GetResources(),
	})
	if err != nil {
		return nil, err
	}
	return append([]byte(cacheMark+c.checksum(message)+"\n"), message...), nil
}

// read returns what the file holds, and its bytes. If it is not there yet, there is neither.
func (c *cache) read() (*discoveryv3.DiscoveryResponse, []byte, error) {
	f, err := os.Open(c.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }() // it is only read
	most := c.most + 1<<10
	data, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	switch {
	case err != nil:
		return nil, nil, err
	case len(data) > most:
		return nil, nil, fmt.Errorf("it has more than the %d bytes that a message may have; remove it", c.most)
	}
	head, message, _ := bytes.Cut(data, []byte("\n"))
	if string(head) != cacheMark+c.checksum(message) {
		return nil, nil, errCache
	}
	m := new(discoveryv3.DiscoveryResponse)
	if err := proto.Unmarshal(message, m); err != nil {
		return nil, nil, errCache
	}
	return m, data, nil
}

// write makes the file hold m.
func (c *cache) write(m *discoveryv3.DiscoveryResponse) error {
	data, err := c.encode(m)
	if err != nil || bytes.Equal(data, c.held) {
		return err
	}
	if err := writeFile(c.file, data); err != nil {
		return err
	}
	c.held = data
	return nil
}

// writeFile replaces a file at once: whoever reads it finds what it held before or all
// of data.
func writeFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
