use super::*;
use proptest::prelude::*;

const A: &str = "6b844bab-4a07-4e3d-ba81-9bfd3accc755";
const B: &str = "9f2f5d6c-04de-4973-b879-5d99f3e81167";

#[test]
fn domains_are_known_by_their_uuids_whatever_they_are_called() {
    let text = format!("{A} web \"a\" {{b}} {B}\n{B} {A}\n\n{A} again\n -x\nerror: {B}\n");
    let found = domains(&text);
    let told: Vec<_> = found.iter().map(|f| (f.id.as_str(), f.name.as_str())).collect();
    assert_eq!(told, [(A, &*format!("web \"a\" {{b}} {B}")), (B, A)]);
}

#[test]
fn only_disks_are_disks() {
    let text = " Type   Device   Target   Source\n---------------------\n file   disk     vda      /a  b.qcow2\n \
                file   cdrom    hda      /cd.iso\n volume   disk     vdb      plain.qcow2\n file   disk     --all    /x\n \
                file   disk     vda,hda  /x\n file   disk     sda      -\n";
    let told: Vec<_> = disks(text).into_iter().map(|d| (d.target, d.source)).collect();
    let expected = [("vda", "/a  b.qcow2"), ("vdb", "plain.qcow2"), ("sda", "-")];
    assert_eq!(
        told,
        expected.map(|(target, source)| (target.to_owned(), source.to_owned()))
    );
}

#[test]
fn a_definition_has_a_name_and_a_uuid() {
    let text =
        format!("<!-- x -->\n<domain><name>a &lt;b&gt; &amp;lt;</name>\n<uuid>{A}</uuid><name>c</name>");
    let found = definition(&text).unwrap();
    assert_eq!((found.name.as_str(), found.id.as_str()), ("a <b> &lt;", A));
    for text in ["", "<name>a</name>", "<name>a</name><uuid>-x</uuid>", "<uuid>"] {
        assert_eq!(definition(text), None);
    }
}

proptest! {
    #[test]
    fn whatever_virsh_prints_only_uuids_and_targets_come_out(text in "(?s).{0,400}", line in "(file|disk|vd[a-c]|[-a-f0-9,/<>]| |\n){0,80}") {
        for text in [text, line] {
            prop_assert!(domains(&text).iter().all(|one| is_uuid(&one.id)));
            prop_assert!(disks(&text).iter().all(|one| !one.target.is_empty() && one.target.bytes().all(|b| b.is_ascii_alphanumeric())));
            prop_assert!(definition(&text).is_none_or(|one| is_uuid(&one.id)));
        }
    }
}
