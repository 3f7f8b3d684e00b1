#!/bin/bash
# Writing to qcow2 images that QEMU has made: whatever is written is there, for QEMU, too, and no refcount is wrong.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/qcow2.sh"
require qemu-img --version

seed=${WRITE_SEED:-1}
mix=wwwwwrrfzd

# ---- geometry ------------------------------------------------------------------------------------
while read -r size options; do
	make "$options" "$size"
	attack "$options, $size" -s $((seed++)) -n 6 -k 60 -r 2 -o -m $mix
done <<-END
	3M cluster_size=512
	5M cluster_size=512,refcount_bits=64
	5M cluster_size=1k,refcount_bits=1
	8M cluster_size=4k,compat=0.10
	16M cluster_size=4k,refcount_bits=2
	33M cluster_size=64k
	33M cluster_size=64k,compat=0.10
	33M cluster_size=64k,lazy_refcounts=on
	33M cluster_size=64k,preallocation=metadata
	16M cluster_size=64k,preallocation=falloc
	40M cluster_size=2M,refcount_bits=8
	33M cluster_size=64k,extended_l2=on
	33M cluster_size=16k,extended_l2=on,refcount_bits=32
	40M cluster_size=2M,extended_l2=on
	5000k cluster_size=2M
	5001k cluster_size=32k
END

# ---- content that was there before ---------------------------------------------------------------
make "" 16M
"$random" -s 100 -n 2 -k 200 "qcow2:$tmp/a.qcow2" "$tmp/model"
mv "$tmp/a.qcow2" "$tmp/base.qcow2"
cp "$tmp/model" "$tmp/base.raw"

for options in "" cluster_size=4k compression_type=zstd extended_l2=on cluster_size=2M; do
	qemu-img convert -c -f raw -O qcow2 ${options:+-o "$options"} "$tmp/base.raw" "$tmp/a.qcow2"
	model
	attack "compressed, $options" -s $((seed++)) -n 4 -k 60 -r 2 -o -m $mix
done

for below in qcow2 raw; do
	for options in "" cluster_size=4k extended_l2=on cluster_size=2M compat=0.10; do
		for size in 12M 16M 20M; do
			make "$options" $size -b "base.$below" -F $below
			attack "on $below, $options, $size" -s $((seed++)) -n 4 -k 40 -r 2 -o -m $mix
		done
	done
done
qemu-img compare -q -f qcow2 -F raw "$tmp/base.qcow2" "$tmp/base.raw" || fail "a backing file was written to"

# ---- internal snapshots --------------------------------------------------------------------------
for options in "" cluster_size=512 cluster_size=4k,refcount_bits=2 compat=0.10 extended_l2=on cluster_size=2M; do
	make "$options" 6M
	attack "before snapshots, $options" -s $((seed++)) -n 2 -k 60
	qemu-img snapshot -c one "$tmp/a.qcow2"
	cp "$tmp/model" "$tmp/one"
	attack "after a snapshot, $options" -s $((seed++)) -n 3 -k 40 -r 2 -o -m $mix
	qemu-img snapshot -c two "$tmp/a.qcow2"
	cp "$tmp/model" "$tmp/two"
	attack "after two, $options" -s $((seed++)) -n 3 -k 60 -r 2 -o -m $mix
	for snapshot in one two; do
		qemu-img convert -l "snapshot.name=$snapshot" -f qcow2 -O raw "$tmp/a.qcow2" "$tmp/now"
		cmp "$tmp/$snapshot" "$tmp/now" || fail "$options: snapshot $snapshot has changed"
	done
	qemu-img snapshot -d one "$tmp/a.qcow2"
	attack "one less, $options" -s $((seed++)) -n 2 -k 60
	qemu-img snapshot -a two "$tmp/a.qcow2"
	cp "$tmp/two" "$tmp/model"
	attack "back to the second, $options" -s $((seed++)) -n 2 -k 60
done
