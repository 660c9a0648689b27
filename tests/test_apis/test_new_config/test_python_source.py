from mmengine.config import Config

from apa_mmdet.apis.new_config.python_source import WIDTH, Expression, assignment, source_of


def test_the_source_of_plain_data_is_the_data():
    value = dict(
        type="a'b\\\n", scales=[(1333, 640 + 32 * i) for i in range(6)], one=(1,), none=None, more=dict(x=0.5, y=[])
    )
    for data in (value, dict(value, many=list(range(99)))):
        text = assignment('setting', data)
        assert Config.fromstring(text, '.py').setting.to_dict() == data
        assert all(len(line) <= WIDTH for line in text.splitlines())


def test_an_expression_is_written_as_it_is():
    assert source_of(dict(a=[Expression('len(classes)')])) == 'dict(a=[len(classes)])'
