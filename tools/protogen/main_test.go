package main

import (
	"testing"

	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
)

// TestStatusIsThatOfGoogle holds the copy of google/rpc/status.proto that we ship to the
// one in Google's own packages: a client that is generated from ours may be linked with
// those.
func TestStatusIsThatOfGoogle(t *testing.T) {
	const name = "google/rpc/status.proto"
	files, err := compile(t.Context(), "../../proto", []string{name})
	if err != nil {
		t.Fatal(err)
	}
	ours := files[len(files)-1]
	ours.SourceCodeInfo = nil
	theirs := protodesc.ToFileDescriptorProto(status.File_google_rpc_status_proto)
	if ours.GetName() != name || !proto.Equal(ours, theirs) {
		t.Errorf("ours is\n%s\nand Google's is\n%s", prototext.Format(ours), prototext.Format(theirs))
	}
}
